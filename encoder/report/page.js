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
const SVG = "http://www.w3.org/2000/svg";
const hopSeconds = page.hop / page.rate;
const nMels = page.corners.length - 2;

let frame = page.start;
let block = 0;
let head = 0;
const rowOf = {}; // picture -> the row last pointed at
const stored = {}; // picture -> {columns, rows, levels}, once it has been looked into

// Numbers and pictures

const position = () => frame >> 1;
const number = (x, digits = 2) => x.toFixed(digits).replace("-", "−");
const count = (n) => n.toLocaleString("en").replace("-", "−");
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

function colours(name) {
  return page.palettes[name].match(/.{6}/g);
}

// The colours of a picture back into steps of its palette.
async function pixels(image, palette) {
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const level = new Map(colours(palette).map((colour, i) => [parseInt(colour, 16), i]));
  const levels = new Uint8Array(canvas.width * canvas.height);
  for (let i = 0; i < levels.length; i++) {
    levels[i] = level.get((data[4 * i] << 16) | (data[4 * i + 1] << 8) | data[4 * i + 2]) ?? 0;
  }
  return { columns: canvas.width, rows: canvas.height, levels, top: colours(palette).length - 1 };
}

// The picture of that name as {at(column, row)}; null until it has been decoded.
function look(name) {
  if (!(name in stored)) {
    stored[name] = null;
    const image = document.querySelector(`[data-picture="${name}"]`);
    const { low, high, palette, unit, labels, step } = { ...image.parentElement.dataset, ...image.dataset };
    pixels(image, palette).then(({ columns, rows, levels, top }) => {
      const level = (column, row) => levels[(rows - 1 - row) * columns + clamp(column, 0, columns - 1)];
      const at = (column, row) => +low + ((high - low) * level(column, row)) / top;
      const beyond = (column, row) => ({ 0: "≤ ", [top]: "≥ " })[level(column, row)] ?? "";
      stored[name] = { at, beyond, rows, unit, labels: JSON.parse(labels), step: +step };
      draw();
    });
  }
  return stored[name];
}

const column = (name) => {
  const picture = look(name);
  if (!picture) return null;
  const t = picture.step > 10 ? position() : frame;
  return Array.from({ length: picture.rows }, (_, row) => picture.at(t, row));
};

const samples = (() => {
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
    const fine = +plot.dataset.step <= 10;
    plot.setAttribute("aria-valuenow", fine ? frame : p);
    plot.setAttribute("aria-valuetext", `${fine ? `frame ${frame}` : `position ${p}`}, ${number(seconds)} seconds`);
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
    for (const id of visible) charts[id]?.(byId(id));
    for (const place of all(".value[data-value]")) place.textContent = valueAt(place.dataset.value);
  });
}

function valueAt(name) {
  if (name === "waveform") return `sample ${count(frame * page.hop)}: ${number(sample(frame * page.hop), 4)}`;
  if (!(name in rowOf)) return "";
  if (name in page) {
    const row = clamp(rowOf[name], 0, page[name].length - 1);
    const labels = JSON.parse(document.querySelector(`[data-picture="${name}"]`).dataset.labels);
    return `${labels[row]}: ${number(page[name][row][position()])}`;
  }
  const picture = look(name);
  if (!picture) return "";
  const row = clamp(rowOf[name], 0, picture.rows - 1);
  const place = [picture.step > 10 ? position() : frame, row];
  return `${picture.labels[row]}: ${picture.beyond(...place)}${number(picture.at(...place))} ${picture.unit}`;
}

// Pointing, and the keyboard

function point(plot, event) {
  const box = plot.getBoundingClientRect();
  const down = plot.id === "attention";
  const share = down ? (event.clientY - box.top) / box.height : (event.clientX - box.left) / box.width;
  const span = +getComputedStyle(plot).getPropertyValue("--span");
  const steps = Math.round((share * span * 1000) / +plot.dataset.step);
  const image = plot.querySelector("[data-picture]");
  if (image) {
    const rows = JSON.parse(image.dataset.labels).length;
    rowOf[plot.id] = clamp(Math.floor((1 - (event.clientY - box.top) / box.height) * rows), 0, rows - 1);
  }
  if (down) keyAt = Math.round((((event.clientX - box.left) / box.width) * span * 1000) / +plot.dataset.step);
  show(+plot.dataset.step > 10 ? 2 * steps : steps);
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
    const step = +plot.dataset.step > 10 ? 2 : 1;
    const base = step === 2 ? 2 * position() : frame;
    const along = plot.id === "attention" ? ["ArrowUp", "ArrowDown"] : ["ArrowLeft", "ArrowRight"];
    const moves = { [along[0]]: -step, [along[1]]: step, PageDown: 50, PageUp: -50, Home: -base, End: page.frames };
    const rows = { ArrowUp: 1, ArrowDown: -1 };
    if (event.key in moves) show(base + moves[event.key]);
    else if (event.key in rows && plot.querySelector("[data-picture]")) {
      const last = JSON.parse(plot.querySelector("[data-picture]").dataset.labels).length - 1;
      rowOf[plot.id] = clamp((rowOf[plot.id] ?? -1) + rows[event.key], 0, last);
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
audio.addEventListener("play", () => { play.textContent = "Pause"; play.setAttribute("aria-pressed", "true"); follow(); });
audio.addEventListener("pause", () => { play.textContent = "Play"; play.setAttribute("aria-pressed", "false"); });

const view = byId("view");
view?.addEventListener("click", () => {
  const whole = root.classList.toggle("whole-view");
  view.setAttribute("aria-pressed", whole);
  slider.max = whole ? page.fields.length - 1 : slider.dataset.clip;
  show(frame);
});
slider.dataset.clip = slider.max;

// Attention

const heads = page.attention.sources[0].length;
let shares = null; // the picture of this head, looked into
let keyAt = null; // the position that the pointer is at, across it

function turn(what, by) {
  if (what === "block") block = (block + by + page.attention.sources.length) % page.attention.sources.length;
  else head = (head + by + heads) % heads;
  showHead();
}

function showHead() {
  const image = byId("attention-picture");
  const [b, h] = [block, head];
  const source = page.attention.sources[b][h];
  image.src = source;
  image.dataset.block = b;
  image.dataset.head = h;
  text("block", String(b + 1));
  text("head", String(h + 1));
  const padding = number(100 * page.attention.padding[b][h], 0);
  text("attention", `looks ${number(page.attention.distance[b][h])} s away on average; ${padding} % to the padding`);
  const thumbs = document.querySelector(".thumbs");
  if (thumbs.dataset.block !== String(b)) {
    thumbs.dataset.block = b;
    thumbs.replaceChildren(...page.attention.sources[b].map((thumb, i) => {
      const button = document.createElement("button");
      const small = Object.assign(new Image(), { src: thumb, alt: "", decoding: "async" });
      button.type = "button";
      button.append(small, `head ${i + 1}: ${number(page.attention.distance[b][i])} s`);
      return button;
    }));
  }
  [...thumbs.children].forEach((button, i) => button.setAttribute("aria-pressed", i === h));
  shares = null;
  pixels(image, "attention").then((decoded) => {
    if (b === block && h === head) { shares = decoded; draw(); }
  }, () => {}); // another head was chosen before this one was decoded
}
document.querySelector(".thumbs").addEventListener("click", ({ currentTarget, target }) => {
  const chosen = [...currentTarget.children].indexOf(target.closest("button"));
  if (chosen < 0) return; // between two of them
  head = chosen;
  showHead();
});
for (const button of all("[data-turn]")) {
  const [what, by] = button.dataset.turn.split(":");
  button.addEventListener("click", () => turn(what, +by));
}

// Charts. Each is drawn anew, in pixels of the screen, when the moment changes and it is in view.

function put(svg, parts) {
  svg.setAttribute("viewBox", `0 0 ${svg.clientWidth} ${svg.clientHeight}`);
  svg.replaceChildren(...parts.map(([tag, attributes, content]) => {
    const part = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) part.setAttribute(name, value);
    if (content !== undefined) part.textContent = content;
    return part;
  }));
}
const path = (points) => `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;
const curve = (kind, points) => ["path", { class: kind, d: path(points) }];
const label = (x, y, content, anchor = "middle") => ["text", { x, y, "text-anchor": anchor }, content];
const rule = (kind, x1, y1, x2, y2) => ["line", { class: kind, x1, y1, x2, y2 }];

// Where values are drawn: x and y of a chart with room for the labels.
function area(svg, [x0, x1], [y0, y1]) {
  const [left, right, top, bottom] = [svg.clientWidth > 600 ? 54 : 36, svg.clientWidth - 6, 8, svg.clientHeight - 26];
  return {
    left, right, top, bottom,
    x: (v) => left + ((v - x0) / (x1 - x0)) * (right - left),
    y: (v) => bottom - ((v - y0) / (y1 - y0)) * (bottom - top),
  };
}

const charts = {
  "frame-chart"(svg) {
    const half = page.nFft / 2;
    const piece = Array.from({ length: page.nFft }, (_, i) => sample(frame * page.hop - half + i));
    const most = Math.max(...piece.map(Math.abs), 1e-4);
    const a = area(svg, [-half, half], [-1.05 * most, 1.05 * most]);
    const along = (values) => values.map((v, i) => [a.x(i - half), a.y(v)]);
    const ticks = [-half, -half / 2, 0, half / 2, half].map((s, i) => label(
      a.x(s), a.bottom + 18, `${number((1000 * s) / page.rate, 2)}${s ? "" : " ms"}`, ["start", "middle", "middle", "middle", "end"][i]));
    put(svg, [
      rule("axis", a.left, a.y(0), a.right, a.y(0)),
      curve("raw", along(piece)),
      curve("hill", along(page.window.map((w) => w * most))),
      curve("product", along(piece.map((v, i) => v * page.window[i]))),
      label(a.left - 6, a.y(most) + 4, number(most, most < 0.1 ? 3 : 2), "end"),
      label(a.left - 6, a.y(0) + 4, "0", "end"),
      ...ticks,
    ]);
  },

  "spectrum-chart"(svg) {
    const power = column("power");
    if (!power) return;
    const image = document.querySelector('[data-picture="power"]').dataset;
    const a = area(svg, [0, page.rate / 2], [10 * image.low, 10 * image.high]);
    const step = page.rate / page.nFft;
    const tent = page.corners.slice(1, -1).map((centre, m) => path([
      [a.x(page.corners[m]), a.bottom], [a.x(centre), a.top + 20], [a.x(page.corners[m + 2]), a.bottom]])).join("");
    const marks = [0, 1000, 2000, 4000, 6000, 8000].filter((f) => f <= page.rate / 2);
    put(svg, [
      ["path", { class: "hill", d: tent }],
      curve("product", power.map((v, k) => [a.x(k * step), a.y(10 * v)])),
      rule("axis", a.left, a.bottom, a.right, a.bottom),
      ...marks.map((f) => label(a.x(f), a.bottom + 18, f ? `${f}` : "0 Hz", f === 8000 ? "end" : "middle")),
      label(a.left - 6, a.top + 10, `${number(10 * image.high, 0)} dB`, "end"),
      label(a.left - 6, a.bottom, number(10 * image.low, 0), "end"),
    ]);
    const loudest = power.indexOf(Math.max(...power));
    text("spectrum", `loudest at ${loudest * step} Hz: ${number(10 * power[loudest], 0)} dB`);
  },

  "mel-chart"(svg) {
    const log = column("log");
    if (!log) return;
    const image = document.querySelector('[data-picture="log"]').dataset;
    const low = Math.min(+image.low, page.threshold) - 0.3;
    const a = area(svg, [0, log.length], [low, +image.high]);
    const wide = (a.right - a.left) / log.length;
    const marks = [0, 0.25, 0.5, 0.75, 1].map((s) => Math.min(Math.floor(s * log.length), log.length - 1));
    put(svg, [
      ...log.map((v, m) => ["rect", {
        class: v < page.threshold ? "cut" : "kept", x: a.x(m), width: Math.max(wide - 1, 0.6), y: a.y(v), height: a.bottom - a.y(v) }]),
      rule("threshold", a.left, a.y(page.threshold), a.right, a.y(page.threshold)),
      rule("axis", a.left, a.bottom, a.right, a.bottom),
      ...marks.map((m, i) => label(a.x(m + 0.5), a.bottom + 18, `${number(page.corners[m + 1], 0)}${i ? "" : " Hz"}`, ["start", "middle", "middle", "middle", "end"][i])),
      label(a.left - 6, a.top + 10, number(+image.high, 1), "end"),
      label(a.left - 6, a.y(page.threshold) + 4, number(page.threshold, 1), "end"),
    ]);
    text("mel", `${log.filter((v) => v < page.threshold).length} of ${nMels} below the threshold`);
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
    const exists = (f) => f >= 0 && f < page.frames;
    const five = [-2, -1, 0, 1, 2].filter((k) => exists(2 * p + k));
    const three = [-1, 0, 1].filter((k) => exists(2 * p + k));
    const x = (k) => a.x(centre + k * page.hop);
    for (const k of five) {
      const hill = page.window.map((w, i) => [a.x(centre + k * page.hop - page.nFft / 2 + i), hills - 26 * w]);
      parts.push(["path", { class: "window", d: path(hill) }]);
      parts.push(rule("link", x(k), hills - 26, x(k), frames));
    }
    for (const k of three) for (const j of [-1, 0, 1]) if (five.includes(k + j)) parts.push(rule("link", x(k + j), frames, x(k), outputs));
    for (const k of three) parts.push(rule("link", x(k), outputs, x(0), own));
    const node = (k, y, kind = "") => ["circle", { class: `node ${kind}`, cx: x(k), cy: y, r: 6 }];
    const wide = svg.clientWidth > 600;
    parts.push(...five.map((k) => node(k, frames, k === 0 || k === 1 ? "own" : "")), ...three.map((k) => node(k, outputs)), node(0, own, "own"));
    parts.push(...five.map((k) => label(x(k) + (wide ? 12 : 9), frames + 16, count(2 * p + k), "start")));
    parts.push(label(x(0) + 12, own + 4, `position ${count(p)}`, "start"));
    if (wide) parts.push(
      label(a.left, frames + 4, "frames", "start"), label(a.left, outputs + 4, "conv1", "start"),
      label(a.left, own + 4, "conv2", "start"), label(a.left, hills - 8, "windows", "start"));
    parts.push(label(a.x(first), svg.clientHeight - 4, count(first), "start"), label(a.x(last), svg.clientHeight - 4, count(last), "end"));
    if (centre > first) parts.push(label(a.x(centre), svg.clientHeight - 4, count(centre)));
    put(svg, parts);
  },

  "depth-chart"(svg) {
    const [size, cosine] = [page.norm, page.cosine].map((rows) => rows.map((row) => row[position()]));
    const a = area(svg, [0, Math.max(size.length - 1, 1)], [0, 1.08 * Math.max(...size)]);
    const c = area(svg, [0, Math.max(size.length - 1, 1)], [Math.min(...cosine, 0), 1.08]);
    const every = Math.ceil(size.length / 9);
    put(svg, [
      rule("axis", a.left, a.bottom, a.right, a.bottom),
      curve("product", size.map((v, i) => [a.x(i), a.y(v)])),
      curve("cut", cosine.map((v, i) => [c.x(i + 1), c.y(v)])),
      ...size.flatMap((_, i) => i % every ? [] : [label(a.x(i), a.bottom + 18, i ? `${i}` : "input", i === 0 ? "start" : i === size.length - 1 ? "end" : "middle")]),
      label(a.left - 6, a.y(Math.max(...size)) + 4, number(Math.max(...size), 1), "end"),
      label(a.right, a.y(size.at(-1)) - 7, number(size.at(-1), 1), "end"),
      label(c.right, c.y(cosine.at(-1)) + 15, number(cosine.at(-1)), "end"),
    ]);
  },

  "row-chart"(svg) {
    if (!shares) return;
    const { columns, rows, levels, top } = shares;
    const cell = (p) => Math.floor(p / page.attention.group);
    const query = clamp(cell(position()), 0, rows - 1);
    const line = Array.from(levels.subarray(query * columns, (query + 1) * columns));
    svg.setAttribute("viewBox", `0 0 ${columns} ${top}`);
    const steps = line.flatMap((v, i) => [[i, top - v], [i + 1, top - v]]);
    svg.firstElementChild.setAttribute("d", path(steps));
    const key = keyAt === null ? line.indexOf(Math.max(...line)) : clamp(cell(keyAt), 0, columns - 1);
    const share = 100 * 10 ** (page.attention.low * (1 - line[key] / top));
    const outside = cell(position()) >= rows ? "beyond the picture; its last row: " : "";
    text("share", `${outside}${number(share, share < 1 ? 2 : 1)} % from ${number(key * page.attention.group * 2 * hopSeconds)} s`);
  },
};

// Start

for (const [name, ramp] of Object.entries({ ...page.palettes, attention: page.palettes.magma })) {
  const stops = ramp.match(/.{6}/g).filter((_, i) => i % 8 === 0).map((colour) => `#${colour}`).join(",");
  for (const place of all(`.ramp.${name}`)) place.style.backgroundImage = `linear-gradient(to right,${stops})`;
}
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
