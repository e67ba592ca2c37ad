// One moment, shown by every picture: a frame of 10 ms, and the position of 20 ms that it becomes.
// Cursors and bands are placed by CSS from the variables that `show` sets.
"use strict";

const page = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const all = (selector) => [...document.querySelectorAll(selector)];
const byId = (id) => document.getElementById(id);
const plots = all(".plot");
const audio = byId("audio");
const play = byId("play");
const slider = byId("slider");
const thumbs = document.querySelector(".thumbs");
const hopSeconds = page.hop / page.rate;
const nMels = page.corners.length - 2;

let frame = page.start;
const rowOf = {}; // picture -> the row last pointed at
const stored = {}; // picture -> what `look` returns, once it has been looked into

// What is known of each picture before it has been decoded.
const pictures = Object.fromEntries(all("[data-picture]").map((image) => {
  const { picture, low, high, palette, unit, labels } = image.dataset;
  const { step } = image.parentElement.dataset;
  return [picture, { image, low: +low, high: +high, palette, unit, labels: JSON.parse(labels), step }];
}));

// Numbers and pictures

const position = () => frame >> 1;
const stride = (step) => (step > 10 ? 2 : 1); // frames in a step of so many milliseconds
const moment = (step) => (stride(step) === 2 ? position() : frame); // in such steps
const number = (x, digits = 2) => x.toFixed(digits).replace("-", "−");
const count = (n) => n.toLocaleString("en").replace("-", "−");
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const colours = (palette) => page.palettes[palette].match(/.{6}/g);

// The colours of a picture back into steps of its palette.
async function pixels(image, palette) {
  await image.decode();
  const [columns, rows] = [image.naturalWidth, image.naturalHeight];
  const canvas = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, columns, rows);
  const level = new Map(colours(palette).map((colour, i) => [parseInt(colour, 16), i]));
  const levels = new Uint8Array(columns * rows);
  for (let i = 0; i < levels.length; i++) {
    levels[i] = level.get((data[4 * i] << 16) | (data[4 * i + 1] << 8) | data[4 * i + 2]) ?? 0;
  }
  return { columns, rows, levels, top: level.size - 1 };
}

// The picture of that name as {at(column, row)}; null until it has been decoded.
function look(name) {
  if (!(name in stored)) {
    stored[name] = null;
    const { image, low, high, palette } = pictures[name];
    pixels(image, palette).then(({ columns, rows, levels, top }) => {
      const level = (column, row) => levels[(rows - 1 - row) * columns + clamp(column, 0, columns - 1)];
      const at = (column, row) => low + ((high - low) * level(column, row)) / top;
      const beyond = (column, row) => ({ 0: "≤ ", [top]: "≥ " })[level(column, row)] ?? "";
      stored[name] = { ...pictures[name], at, beyond };
      draw();
    });
  }
  return stored[name];
}

// The values of a picture at this moment, from its lowest row up.
const column = ({ labels, step, at }) => labels.map((_, row) => at(moment(step), row));

let samples = (() => {
  const bytes = Uint8Array.from(atob(audio.getAttribute("src").split(",")[1]), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const start = bytes.length - 2 * page.samples; // the samples are the end of the file
  return Float32Array.from({ length: page.samples }, (_, i) => view.getInt16(start + 2 * i, true) / 32768);
})();
const sample = (i) => samples[Math.abs(i)] ?? 0; // mirrored at the left edge, silence after the clip

// The moment

function text(name, content) {
  for (const place of all(`[data-text="${name}"]`)) {
    if (place.textContent !== content) place.textContent = content;
  }
}

function show(next) {
  frame = clamp(next, 0, page.frames - 1);
  const p = position();
  const [first, last] = page.fields[p];
  const seconds = frame * hopSeconds;
  const set = (name, value) => root.style.setProperty(name, value);
  set("--t", seconds);
  set("--frames-from", (2 * p - 0.5) * hopSeconds);
  set("--frames-to", (2 * p + 1.5) * hopSeconds);
  set("--field-from", first / page.rate);
  set("--field-to", (last + 1) / page.rate);
  root.dataset.frame = frame;
  root.dataset.position = p;
  text("time", `${number(seconds)} s`);
  text("word", page.spoken.find(([from, to]) => from <= seconds && seconds < to)?.[2] ?? "–");
  text("frame", count(frame));
  text("position", count(p));
  text("frames", `${count(2 * p)}, ${count(2 * p + 1)}`);
  const from = Math.max(2 * p * page.hop - page.nFft / 2, 0);
  const to = Math.min((2 * p + 1) * page.hop + page.nFft / 2, page.frames * page.hop) - 1;
  text("samples", `${count(from)} – ${count(to)}`);
  text("field", `${count(first)} – ${count(last)}`);
  const start = frame * page.hop - page.nFft / 2;
  text("frame-samples", `samples ${count(start)} – ${count(start + page.nFft - 1)}`);
  slider.value = p;
  slider.setAttribute("aria-valuetext", `position ${p}, ${number(seconds)} seconds`);
  for (const plot of plots) {
    const { step } = plot.dataset;
    const unit = stride(step) === 2 ? "position" : "frame";
    plot.setAttribute("aria-valuenow", moment(step));
    plot.setAttribute("aria-valuetext", `${unit} ${moment(step)}, ${number(seconds)} seconds`);
  }
  draw();
}

let drawing = false;
const visible = new Set();
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    for (const id of visible) charts[id](byId(id));
    for (const place of all(".value[data-value]")) place.textContent = valueAt(place.dataset.value);
  });
}

function valueAt(name) {
  if (name === "waveform") return `sample ${count(frame * page.hop)}: ${number(sample(frame * page.hop), 4)}`;
  if (!(name in rowOf)) return "";
  const row = rowOf[name];
  const { labels, unit, step } = pictures[name];
  if (name in page && !pictures[name].made) return `${labels[row]}: ${number(page[name][row][position()])}`;
  const picture = look(name);
  if (!picture) return "";
  const place = [moment(step), row];
  return `${labels[row]}: ${picture.beyond(...place)}${number(picture.at(...place))} ${unit}`;
}

// Pointing, and the keyboard

function point(plot, event) {
  const box = plot.getBoundingClientRect();
  const [across, down] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  const { step } = plot.dataset;
  const steps = (1000 * getComputedStyle(plot).getPropertyValue("--span")) / step; // in view
  const downwards = plot.id === "attention";
  const rows = pictures[plot.id]?.labels.length;
  if (rows) rowOf[plot.id] = clamp(Math.floor((1 - down) * rows), 0, rows - 1);
  if (downwards) keyAt = Math.round(across * steps);
  show(stride(step) * Math.round((downwards ? down : across) * steps));
}

let lastPoint = "";
for (const plot of plots) {
  const moved = (event) => {
    // A page that scrolls under a still pointer is not pointing.
    const place = `${event.clientX},${event.clientY}`;
    if (event.type === "pointermove" && (place === lastPoint || !audio.paused)) return;
    lastPoint = place;
    point(plot, event);
    if (event.type === "pointerdown" && !audio.paused) audio.currentTime = frame * hopSeconds;
  };
  plot.addEventListener("pointermove", moved);
  plot.addEventListener("pointerdown", moved);
  plot.addEventListener("keydown", (event) => {
    const step = stride(plot.dataset.step);
    const base = step * moment(plot.dataset.step);
    const [back, on] = plot.id === "attention" ? ["ArrowUp", "ArrowDown"] : ["ArrowLeft", "ArrowRight"];
    const moves = { [back]: -step, [on]: step, PageDown: 50, PageUp: -50, Home: -base, End: page.frames };
    const rows = { ArrowUp: 1, ArrowDown: -1 };
    if (event.key in moves) show(base + moves[event.key]);
    else if (event.key in rows && plot.id in pictures) {
      rowOf[plot.id] = clamp((rowOf[plot.id] ?? -1) + rows[event.key], 0, pictures[plot.id].labels.length - 1);
      draw();
    } else return;
    event.preventDefault();
  });
}
slider.addEventListener("input", () => {
  show(2 * slider.value);
  if (!audio.paused) audio.currentTime = frame * hopSeconds;
});
document.addEventListener("keydown", (event) => {
  const turns = { ",": ["head", -1], ".": ["head", 1], "[": ["block", -1], "]": ["block", 1] };
  if (event.key in turns && !event.ctrlKey && !event.metaKey && !event.altKey) turn(...turns[event.key]);
  if (event.key === " " && !event.target.closest("button, a")) {
    event.preventDefault();
    play.click();
  }
});

// The sound

play.addEventListener("click", () => {
  if (!audio.paused) return audio.pause();
  const t = frame * hopSeconds;
  audio.currentTime = t < page.samples / page.rate - 0.1 ? t : 0;
  audio.play();
});
function follow() {
  if (audio.paused) return;
  show(Math.floor(audio.currentTime / hopSeconds + 0.5));
  requestAnimationFrame(follow);
}
for (const kind of ["play", "pause"]) audio.addEventListener(kind, () => {
  play.textContent = audio.paused ? "Play" : "Pause";
  play.setAttribute("aria-pressed", !audio.paused);
  follow();
});

const view = byId("view");
slider.dataset.clip = slider.max;
view?.addEventListener("click", () => {
  const whole = root.classList.toggle("whole-view");
  view.setAttribute("aria-pressed", whole);
  slider.max = whole ? page.fields.length - 1 : slider.dataset.clip;
  show(frame);
});

// Attention

const chosen = { block: 0, head: 0 };
let shares = null; // the picture of this head, looked into
let keyAt = null; // the position that the pointer is at, across it
let heads = null; // the pictures that the thumbs show

function turn(what, by) {
  const { sources } = page.attention; // of each block, one for each head
  const n = { block: sources.length, head: sources[0].length }[what];
  chosen[what] = (chosen[what] + by + n) % n;
  showHead();
}

function showHead() {
  const image = byId("attention-picture");
  const { block, head } = chosen;
  const { sources, wide, padding, distance, palette = "attention" } = page.attention;
  image.src = sources[block][head];
  for (const place of [image, byId("row-chart")]) place.style.setProperty("--wide", wide);
  image.dataset.block = block;
  image.dataset.head = head;
  text("block", String(block + 1));
  text("head", String(head + 1));
  const after = number(100 * padding[block][head], 0);
  text("attention", `looks ${number(distance[block][head])} s away on average; ${after} % to the padding`);
  if (thumbs.dataset.block !== String(block)) {
    thumbs.dataset.block = block;
    showBlock();
  }
  if (heads !== sources[block]) {
    heads = sources[block];
    thumbs.replaceChildren(...sources[block].map((src, i) => {
      const button = Object.assign(document.createElement("button"), { type: "button" });
      const small = Object.assign(new Image(), { src, alt: "", decoding: "async" });
      button.append(small, `head ${i + 1}: ${number(distance[block][i])} s`);
      return button;
    }));
  }
  [...thumbs.children].forEach((button, i) => button.setAttribute("aria-pressed", i === head));
  shares = null;
  pixels(image, palette).then((decoded) => {
    if (image.getAttribute("src") !== page.attention.sources[chosen.block][chosen.head]) return;
    shares = decoded;
    draw();
  }, () => {}); // another head was chosen before this one was decoded
}
function showBlock() {
  for (const [name, sources] of Object.entries(page.inside)) {
    pictures[name].image.src = sources[chosen.block];
    delete stored[name];
  }
  draw();
}
thumbs.addEventListener("click", ({ target }) => {
  const head = [...thumbs.children].indexOf(target.closest("button"));
  if (head >= 0) turn("head", head - chosen.head); // else between two of them
});
for (const button of all("[data-turn]")) {
  const [what, by] = button.dataset.turn.split(":");
  button.addEventListener("click", () => turn(what, +by));
}

// Charts. Each is drawn anew, in pixels of the screen, when the moment changes and it is in view.

function put(svg, parts) {
  svg.setAttribute("viewBox", `0 0 ${svg.clientWidth} ${svg.clientHeight}`);
  svg.replaceChildren(...parts.map(([tag, attributes, content]) => {
    const part = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) part.setAttribute(name, value);
    if (content !== undefined) part.textContent = content;
    return part;
  }));
}
const path = (points) => `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;
const curve = (kind, points) => ["path", { class: kind, d: path(points) }];
const label = (x, y, content, anchor = "middle") => ["text", { x, y, "text-anchor": anchor }, content];
const rule = (kind, x1, y1, x2, y2) => ["line", { class: kind, x1, y1, x2, y2 }];
const anchor = (i, n) => (i === 0 ? "start" : i === n - 1 ? "end" : "middle"); // of label i of n

// Where values are drawn: x and y of a chart with room for the labels.
function area(svg, [x0, x1], [y0, y1]) {
  const [left, right, top, bottom] = [svg.clientWidth > 600 ? 54 : 36, svg.clientWidth - 6, 8, svg.clientHeight - 26];
  return {
    left, right, top, bottom,
    x: (v) => left + ((v - x0) / (x1 - x0)) * (right - left),
    y: (v) => bottom - ((v - y0) / (y1 - y0)) * (bottom - top),
    axis: (y = bottom) => rule("axis", left, y, right, y),
    below: (x, content, where) => label(x, bottom + 18, content, where),
    beside: (y, content) => label(left - 6, y, content, "end"),
  };
}

const charts = {
  "frame-chart"(svg) {
    const half = page.nFft / 2;
    const piece = Array.from({ length: page.nFft }, (_, i) => sample(frame * page.hop - half + i));
    const most = Math.max(...piece.map(Math.abs), 1e-4);
    const a = area(svg, [-half, half], [-1.05 * most, 1.05 * most]);
    const along = (values) => values.map((v, i) => [a.x(i - half), a.y(v)]);
    const marks = [-half, -half / 2, 0, half / 2, half];
    put(svg, [
      a.axis(a.y(0)),
      curve("raw", along(piece)),
      curve("hill", along(page.window.map((w) => w * most))),
      curve("product", along(piece.map((v, i) => v * page.window[i]))),
      a.beside(a.y(most) + 4, number(most, most < 0.1 ? 3 : 2)),
      a.beside(a.y(0) + 4, "0"),
      ...marks.map((s, i) => a.below(a.x(s), `${number((1000 * s) / page.rate)}${s ? "" : " ms"}`, anchor(i, 5))),
    ]);
  },

  "spectrum-chart"(svg) {
    const picture = look("power");
    if (!picture) return;
    const power = column(picture);
    const [low, high] = [10 * picture.low, 10 * picture.high]; // decibels
    const a = area(svg, [0, page.rate / 2], [low, high]);
    const step = page.rate / page.nFft;
    const tent = page.corners.slice(1, -1).map((centre, m) => path([
      [a.x(page.corners[m]), a.bottom], [a.x(centre), a.top + 20], [a.x(page.corners[m + 2]), a.bottom]])).join("");
    const marks = [0, 1000, 2000, 4000, 6000, 8000];
    put(svg, [
      ["path", { class: "hill", d: tent }],
      curve("product", power.map((v, k) => [a.x(k * step), a.y(10 * v)])),
      a.axis(),
      ...marks.map((f) => a.below(a.x(f), f ? `${f}` : "0 Hz", f === 8000 ? "end" : "middle")),
      a.beside(a.top + 10, `${number(high, 0)} dB`),
      a.beside(a.bottom, number(low, 0)),
    ]);
    const loudest = power.indexOf(Math.max(...power));
    text("spectrum", `loudest at ${loudest * step} Hz: ${number(10 * power[loudest], 0)} dB`);
  },

  "mel-chart"(svg) {
    const picture = look("log");
    if (!picture) return;
    const log = column(picture);
    const { threshold } = page;
    const a = area(svg, [0, nMels], [Math.min(picture.low, threshold) - 0.3, picture.high]);
    const width = Math.max((a.right - a.left) / nMels - 1, 0.6);
    const marks = [0, 0.25, 0.5, 0.75, 1].map((s) => Math.min(Math.floor(s * nMels), nMels - 1));
    put(svg, [
      ...log.map((v, m) => ["rect", {
        class: v < threshold ? "cut" : "kept", x: a.x(m), width, y: a.y(v), height: a.bottom - a.y(v) }]),
      rule("threshold", a.left, a.y(threshold), a.right, a.y(threshold)),
      a.axis(),
      ...marks.map((m, i) => a.below(a.x(m + 0.5), `${number(page.corners[m + 1], 0)}${i ? "" : " Hz"}`, anchor(i, 5))),
      a.beside(a.top + 10, number(picture.high, 1)),
      a.beside(a.y(threshold) + 4, number(threshold, 1)),
    ]);
    text("mel", `${log.filter((v) => v < threshold).length} of ${nMels} below the threshold`);
  },

  "field-chart"(svg) {
    const p = position();
    const centre = 2 * p * page.hop;
    const reach = 2 * page.hop + page.nFft / 2;
    const a = area(svg, [centre - reach - 60, centre + reach + 60], [0, 1]);
    const [wave, hills, frames, outputs, own] = [0.9, 0.66, 0.44, 0.25, 0.07].map((y) => 8 + y * (svg.clientHeight - 34));
    const range = Array.from({ length: 2 * reach + 121 }, (_, i) => centre - reach - 60 + i);
    const most = Math.max(...range.map((s) => Math.abs(sample(s))), 1e-4);
    const [first, last] = page.fields[p];
    const parts = [
      ["rect", { class: "window", x: a.x(first), width: a.x(last + 1) - a.x(first), y: wave - 30, height: 60 }],
      curve("raw", range.map((s) => [a.x(s), wave - (28 * sample(s)) / most])),
    ];
    const five = [-2, -1, 0, 1, 2].filter((k) => 2 * p + k >= 0 && 2 * p + k < page.frames);
    const three = five.filter((k) => Math.abs(k) <= 1);
    const x = (k) => a.x(centre + k * page.hop);
    for (const k of five) {
      parts.push(curve("window", page.window.map((w, i) => [a.x(centre + k * page.hop - page.nFft / 2 + i), hills - 26 * w])));
      parts.push(rule("link", x(k), hills - 26, x(k), frames));
    }
    for (const k of three) for (const j of five) if (Math.abs(j - k) <= 1) parts.push(rule("link", x(j), frames, x(k), outputs));
    for (const k of three) parts.push(rule("link", x(k), outputs, x(0), own));
    const node = (k, y, kind = "") => ["circle", { class: `node ${kind}`, cx: x(k), cy: y, r: 6 }];
    const wide = svg.clientWidth > 600;
    const bottom = svg.clientHeight - 4;
    parts.push(
      ...five.map((k) => node(k, frames, k === 0 || k === 1 ? "own" : "")),
      ...three.map((k) => node(k, outputs)),
      node(0, own, "own"),
      ...five.map((k) => label(x(k) + (wide ? 12 : 9), frames + 16, count(2 * p + k), "start")),
      label(x(0) + 12, own + 4, `position ${count(p)}`, "start"),
      label(a.x(first), bottom, count(first), "start"),
      label(a.x(last), bottom, count(last), "end"),
    );
    const names = { frames: frames + 4, conv1: outputs + 4, conv2: own + 4, windows: hills - 8 };
    if (wide) parts.push(...Object.entries(names).map(([name, y]) => label(a.left, y, name, "start")));
    if (centre > first) parts.push(label(a.x(centre), bottom, count(centre)));
    put(svg, parts);
  },

  "depth-chart"(svg) {
    const [size, cosine] = [page.norm, page.cosine].map((rows) => rows.map((row) => row[position()]));
    const n = size.length;
    const most = Math.max(...size);
    const a = area(svg, [0, Math.max(n - 1, 1)], [0, 1.08 * most]);
    const c = area(svg, [0, Math.max(n - 1, 1)], [Math.min(...cosine, 0), 1.08]);
    const every = Math.ceil(n / 9);
    put(svg, [
      a.axis(),
      curve("product", size.map((v, i) => [a.x(i), a.y(v)])),
      curve("cut", cosine.map((v, i) => [c.x(i + 1), c.y(v)])),
      ...size.flatMap((_, i) => i % every ? [] : [a.below(a.x(i), i ? `${i}` : "input", anchor(i, n))]),
      a.beside(a.y(most) + 4, number(most, 1)),
      label(a.right, a.y(size.at(-1)) - 7, number(size.at(-1), 1), "end"),
      label(c.right, c.y(cosine.at(-1)) + 15, number(cosine.at(-1)), "end"),
    ]);
  },

  "block-chart"(svg) {
    const [b, p] = [chosen.block, position()];
    const { attention, middle, mlp } = page.sizes;
    const bars = [
      ["comes in", page.norm[b][p]], ["attention adds", attention[b][p], "cut"], ["together", middle[b][p]],
      ["the MLP adds", mlp[b][p], "cut"], ["goes out", page.norm[b + 1][p]],
    ];
    const most = Math.max(...bars.map(([, size]) => size));
    const [left, right, height] = [108, svg.clientWidth - 46, svg.clientHeight / bars.length];
    put(svg, bars.flatMap(([name, size, kind = "kept"], i) => [
      ["rect", { class: kind, x: left, y: i * height + 6, width: Math.max(((right - left) * size) / most, 1), height: height - 12 }],
      label(left - 8, (i + 0.5) * height + 4, name, "end"),
      label(left + ((right - left) * size) / most + 6, (i + 0.5) * height + 4, number(size, 1), "start"),
    ]));
    text("open", `${count(Math.round(page.open[b][p] * page.units))} of ${count(page.units)}`);
  },

  "row-chart"(svg) {
    if (!shares) return;
    const { columns, rows, levels, top } = shares;
    const { group, low, high = 0 } = page.attention;
    const cell = (p) => Math.floor(p / group);
    const query = clamp(cell(position()), 0, rows - 1);
    const line = Array.from(levels.subarray(query * columns, (query + 1) * columns));
    svg.setAttribute("viewBox", `0 0 ${columns} ${top}`);
    const steps = line.flatMap((v, i) => [[i, top - v], [i + 1, top - v]]);
    svg.firstElementChild.setAttribute("d", path(steps));
    const key = keyAt === null ? line.indexOf(Math.max(...line)) : clamp(cell(keyAt), 0, columns - 1);
    const share = 10 ** (low + ((high - low) * line[key]) / top);
    const said = high ? `${number(share)} times as much` : `${number(100 * share, share < 0.01 ? 2 : 1)} %`;
    const outside = cell(position()) >= rows ? "beyond the picture; its last row: " : "";
    text("share", `${outside}${said} from ${number(key * group * 2 * hopSeconds)} s`);
  },
};

// Start

function colourRamps() {
  for (const palette of Object.keys(page.palettes)) {
    const stops = colours(palette).filter((_, i) => i % 8 === 0).map((colour) => `#${colour}`).join(",");
    for (const place of all(`.ramp.${palette}`)) place.style.backgroundImage = `linear-gradient(to right,${stops})`;
  }
}
colourRamps();
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) visible.add(target.id);
    else visible.delete(target.id);
  }
  draw();
}, { rootMargin: "200px" });
for (const id of Object.keys(charts)) watcher.observe(byId(id));
addEventListener("resize", draw);
addEventListener("beforeprint", () => {
  for (const [id, chart] of Object.entries(charts)) chart(byId(id));
});
show(frame);
addEventListener("load", () => { // not only when it comes into view: a page may be printed unread
  ["power", "log"].forEach(look);
  showHead();
});
