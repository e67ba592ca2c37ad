// Another sound, or one decision changed: the front end computed again, here, by web/melfront.js.
// The pictures of `page.js` are painted anew; everything that reads them follows.
"use strict";

const STAGES = ["padded", "power", "mel", "log", "clamped", "features"];
const OWN = { samples, name: byId("try-section").querySelector("legend b").textContent, slider: slider.max };
root.classList.add("scripted");
const tried = { mistake: null, view: "wrong", right: null, wrong: null };
let loaded = null; // melfront.js, when it is wanted

function frontEnd() {
  const source = () => new Blob([byId("front-end").textContent], { type: "text/javascript" });
  loaded ??= import(URL.createObjectURL(source()));
  return loaded;
}

// Pictures

// The rows of a picture, from the lowest up, as one array.
const ROWS = {
  power: ({ power: { data, shape: [frames, rows] } }) => {
    const out = new Float64Array(data.length);
    for (let f = 0; f < frames; f++) {
      for (let k = 0; k < rows; k++) out[k * frames + f] = Math.log10(Math.max(data[f * rows + k], 1e-30));
    }
    return out;
  },
  log: ({ log }) => log.data,
  features: ({ features }) => features.data,
};
const DECADES = 12; // of power below the loudest
const most = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);
const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);

// A picture painted with other values: what it shows, and its palette's range.
function paint(name, values, low, high, palette) {
  const picture = pictures[name];
  const rows = picture.labels.length;
  const columns = values.length / rows;
  const canvas = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const steps = colours(palette).map((colour) => parseInt(colour, 16));
  const size = Math.max(high - low, 1e-12);
  values.forEach((value, i) => {
    const level = Math.round(clamp((value - low) / size, 0, 1) * (steps.length - 1));
    const at = 4 * (columns * (rows - 1 - Math.floor(i / columns)) + (i % columns));
    image.data.set([steps[level] >> 16, (steps[level] >> 8) & 255, steps[level] & 255, 255], at);
  });
  context.putImageData(image, 0, 0);
  Object.assign(picture, { low, high, palette });
  picture.image.src = canvas.toDataURL();
  delete stored[name];
  rescale(name, low, high, palette);
  look(name);
}

// The scale beneath a picture.
function rescale(name, low, high, palette) {
  const scale = document.querySelector(`[data-scale="${name}"]`);
  if (!scale) return; // one above it has the same
  const digits = high - low < 0.05 ? 5 : high - low < 5 ? 2 : 1;
  const unit = name === "power" ? 10 : 1; // its scale is in decibels
  scale.firstElementChild.textContent = number(unit * low, digits);
  scale.lastElementChild.textContent = number(unit * high, digits) + (name === "power" ? " dB" : "");
  scale.querySelector(".ramp").className = `ramp ${palette}`;
  colourRamps();
}

// The encoder's pictures, of which the page holds what each mistake makes of them.
const FOLLOWING = ["conv1", "gelu1", "conv2", "gelu2", "table", "norm", "cosine", "before", "after"];
const OF_ENCODER = FOLLOWING.map((name) => {
  const { image, low, high, palette } = pictures[name];
  const scale = document.querySelector(`[data-scale="${name}"]`);
  return { name, src: image.src, low, high, palette, scale, html: scale?.innerHTML };
});
function repaintEncoder() {
  const { mistake, view } = tried;
  for (const { name, src, low, high, palette, scale, html } of OF_ENCODER) {
    const made = view === "right" ? null : mistake?.pictures?.[name];
    const shown = made && view === "difference"
      ? { src: made.difference, low: -made.size, high: made.size, palette: "berlin" }
      : { src: made?.wrong ?? src, low, high, palette };
    if (pictures[name].image.src === shown.src) continue;
    pictures[name].image.src = shown.src;
    Object.assign(pictures[name], {
      low: shown.low, high: shown.high, palette: shown.palette, made: Boolean(made),
    });
    delete stored[name];
    if (scale) scale.innerHTML = html;
    if (shown.src === made?.difference) rescale(name, shown.low, shown.high, shown.palette);
    else colourRamps();
  }
}

// Attention's, which are coarser.
const ATTENTION = page.attention;
const SCALE = document.querySelector("[data-scale=attention]");
const SHARES = SCALE.innerHTML;
function repaintAttention() {
  const { mistake, view } = tried;
  const made = view === "right" ? null : mistake?.pictures?.attention;
  const apart = Boolean(made) && view === "difference";
  const sources = (apart ? made.difference : made?.wrong) ?? ATTENTION.sources;
  if (sources === page.attention.sources) return;
  const range = apart ? { low: -made.size, high: made.size, palette: "berlin" } : { low: ATTENTION.low };
  page.attention = made ? { ...made, sources, ...range } : ATTENTION;
  for (const tick of byId("row").parentElement.querySelectorAll(".y-axis .tick")) tick.hidden = apart;
  SCALE.innerHTML = SHARES;
  if (apart) {
    const times = number(10 ** made.size, made.size < 1 ? 1 : 0);
    SCALE.firstElementChild.textContent = `÷ ${times}`;
    SCALE.lastElementChild.textContent = `× ${times} as much`;
    SCALE.querySelector(".ramp").className = "ramp berlin";
  }
  colourRamps();
  showHead();
}

function repaint() {
  const { right, wrong, view } = tried;
  const shown = view === "right" || !tried.mistake ? right : wrong;
  repaintEncoder();
  repaintAttention();
  for (const name of Object.keys(ROWS)) {
    const values = ROWS[name](shown);
    if (tried.mistake?.change && view === "difference") {
      const other = ROWS[name](right);
      const apart = values.map((x, i) => x - other[i]);
      const size = Math.max(most(apart), -least(apart), 1e-6);
      paint(name, apart, -size, size, "berlin");
      continue;
    }
    const [low, high] = [least(values), most(values)];
    if (name === "log") page.palettes.cut = twoRamps(1 - page.range / Math.max(high - low, 1e-12));
    const palette = name === "log" ? "cut" : "magma";
    paint(name, values, name === "power" ? high - DECADES : low, Math.max(high, low + 1e-6), palette);
  }
  page.threshold = most(shown.log.data) - page.range;
  drawHistogram(shown.log);
  draw();
}

// Cold colours for the share of the range that the clamp cuts, warm ones above.
function twoRamps(share) {
  const n = colours("magma").length;
  const cold = Math.round(Math.max(share, 0) * n);
  const warm = colours("magma").slice(Math.round(0.12 * n));
  const hex = (x) => Math.round(x).toString(16).padStart(2, "0");
  const mix = (t) => [[16, 112], [42, 200], [54, 205]].map(([a, b]) => hex(a + t * (b - a))).join("");
  return Array.from({ length: n }, (_, i) => (i < cold
    ? mix(cold > 1 ? i / (cold - 1) : 0)
    : warm[Math.round(((i - cold) / Math.max(n - cold - 1, 1)) * (warm.length - 1))])).join("");
}

function drawHistogram({ data, shape: [, frames] }) {
  const heard = Math.max(Math.ceil(page.samples / page.hop), 1);
  const values = data.filter((_, i) => i % frames < heard);
  const bars = all(".histogram rect");
  const [low, high] = [least(values) - 0.1, most(values) + 0.1];
  const counts = bars.map(() => 0);
  for (const x of values) counts[Math.min(Math.floor(((x - low) / (high - low)) * bars.length), bars.length - 1)]++;
  bars.forEach((bar, i) => {
    const height = (29 * counts[i]) / most(counts);
    bar.setAttribute("y", 30 - height);
    bar.setAttribute("height", height);
    bar.setAttribute("class", low + ((i + 1) * (high - low)) / bars.length <= page.threshold ? "cut" : "kept");
  });
  const axis = byId("histogram-axis");
  axis.style.setProperty("--span", high - low);
  const whole = Array.from({ length: Math.floor(high) - Math.ceil(low) + 1 }, (_, i) => Math.ceil(low) + i);
  const every = Math.ceil(whole.length / 12);
  axis.replaceChildren(...whole.filter((_, i) => i % every === 0).map((x) => {
    const tick = Object.assign(document.createElement("span"), { textContent: String(x).replace("-", "−") });
    tick.style.setProperty("--at", x - low);
    return tick;
  }));
}

// A decision changed

const rms = (values) => Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);

// How far apart two runs are at each stage, in units of the noise that float32 has at the least.
function noise(right, wrong) {
  return STAGES.map((stage) => {
    const truth = right[stage].data;
    const apart = truth.map((x, i) => wrong[stage].data[i] - x);
    return [stage, rms(apart) / Math.max(rms(truth) * page.noise, 2 ** -126)];
  });
}

async function compute() {
  const front = await frontEnd();
  const { convention, trace } = front;
  const options = { nMels, padTo: (page.frames * page.hop) / page.rate };
  tried.right = trace(samples, options);
  tried.wrong = tried.mistake?.change ? trace(samples, { ...options, ...tried.mistake.change }) : tried.right;
  const c = convention(tried.view === "right" ? {} : tried.mistake?.change);
  page.window = [...front.window(c)];
  page.corners = front.corners(nMels, c);
  relabel(c.flip_mels);
  explain();
  repaint();
}

// Other filters have their bins at other frequencies.
function relabel(flipped) {
  const hz = page.corners.slice(1, -1);
  const row = (f) => {
    const above = hz.findIndex((x) => x >= f);
    return above > 0 ? above - 1 + (f - hz[above - 1]) / (hz[above] - hz[above - 1]) : above;
  };
  for (const name of ["log", "features"]) {
    const labels = hz.map((f, m) => `mel bin ${m}, ${number(f, 0)} Hz`);
    pictures[name].labels = flipped ? labels.reverse() : labels;
    for (const tick of byId(name).parentElement.querySelectorAll(".y-axis .tick")) {
      const at = (row(+tick.textContent) + 0.5) / nMels;
      tick.hidden = at < 0;
      tick.style.setProperty("--at", flipped ? 1 - at : at);
    }
  }
}

function explain() {
  const { mistake } = tried;
  root.classList.toggle("changed", Boolean(mistake));
  byId("mistake-text").hidden = !mistake;
  if (!mistake) return;
  text("mistake", mistake.name);
  text("sentence", mistake.sentence);
  text("begins", mistake.stage);
  text("seen", mistake.seen ? `Seen in: ${mistake.seen}.` : "");
  text("rest", mistake.change
    ? "The encoder's half still shows what becomes of the right features."
    : ["What it does not reach stays as it is; so do the curves of one position and the inside of a block.",
      mistake.pictures.attention ? ` Attention has ${mistake.pictures.attention.group} positions to a pixel.` : "",
      mistake.missing.length ? ` There was no room for ${mistake.missing.join(", ")}.` : ""].join(""));
  const sizes = mistake.noise ?? noise(tried.right, tried.wrong);
  const largest = Math.max(...sizes.map(([, x]) => x), 10);
  byId("noise").replaceChildren(...sizes.map(([stage, x]) => {
    const row = document.createElement("tr");
    const width = x > 1 ? (100 * Math.log10(x)) / Math.log10(largest) : 0;
    row.innerHTML = `<th scope="row">${stage}</th><td>${units(x)}</td><td><i style="width:${width}%"></i></td>`;
    return row;
  }));
}
const units = (x) => (x === 0 ? "the same" : x < 100 ? number(x, 1) : x < 1e5 ? count(Math.round(x)) : x.toExponential(1));

byId("mistake").addEventListener("change", ({ target }) => {
  tried.mistake = page.mistakes.find(({ name }) => name === target.value) ?? null;
  compute();
});
for (const choice of all("[name=view]")) choice.addEventListener("change", () => {
  tried.view = choice.value;
  compute();
});

// Another sound

function hear(sound, name) {
  samples = sound;
  page.samples = sound.length;
  const own = sound === OWN.samples;
  root.classList.toggle("other-sound", !own);
  text("sound", name);
  const seconds = sound.length / page.rate;
  const span = Math.min(seconds + 0.5, page.frames * hopSeconds);
  root.style.setProperty("--clip-span", own ? page.span : span);
  root.style.setProperty("--end", seconds);
  slider.dataset.clip = own ? OWN.slider : Math.ceil((span * page.rate) / page.hop / 2) - 1;
  if (!root.classList.contains("whole-view")) slider.max = slider.dataset.clip;
  for (const place of all("#front-end-part .ticks.clip")) tickTime(place, own ? page.span : span);
  drawWaveform();
  byId("mask").style.width = `${(100 * Math.ceil(sound.length / page.hop)) / page.frames}%`;
  audio.pause();
  audio.src = URL.createObjectURL(wav(sound));
  compute();
  show(Math.min(frame, Math.floor(sound.length / page.hop)));
}

function tickTime(place, span) {
  const step = [0.1, 0.2, 0.5, 1, 2, 5].find((s) => span / s <= 10) ?? 10;
  const n = Math.floor(span / step + 1e-9) + 1;
  place.replaceChildren(...Array.from({ length: n }, (_, i) => {
    const at = +(i * step).toFixed(3);
    const tick = Object.assign(document.createElement("span"), { textContent: i && i < n - 1 ? at : `${at} s` });
    tick.style.setProperty("--at", at);
    return tick;
  }));
}

function drawWaveform() {
  const peak = Math.max(most(samples), -least(samples), 1e-6);
  const step = Math.ceil(samples.length / 2400);
  const points = [];
  for (let i = 0; i < samples.length; i += step) {
    const piece = samples.subarray(i, i + step);
    points.push(`${i} ${(-most(piece) / peak).toFixed(3)}L${i} ${(-least(piece) / peak).toFixed(3)}`);
  }
  const wave = byId("waveform").querySelector("svg");
  wave.setAttribute("viewBox", `0 -1.05 ${samples.length} 2.1`);
  wave.firstElementChild.setAttribute("d", `M${points.join("L")}`);
  const [top, , bottom] = byId("waveform").parentElement.querySelectorAll(".tick");
  top.textContent = +peak.toPrecision(2);
  bottom.textContent = `−${+peak.toPrecision(2)}`;
}

// 16-bit WAV.
function wav(sound) {
  const bytes = new DataView(new ArrayBuffer(44 + 2 * sound.length));
  const word = (at, letters) => [...letters].forEach((c, i) => bytes.setUint8(at + i, c.charCodeAt(0)));
  word(0, "RIFF");
  bytes.setUint32(4, 36 + 2 * sound.length, true);
  word(8, "WAVEfmt ");
  [[16, 16, 4], [20, 1, 2], [22, 1, 2], [24, page.rate, 4], [28, 2 * page.rate, 4], [32, 2, 2], [34, 16, 2]]
    .forEach(([at, value, size]) => bytes[`setUint${8 * size}`](at, value, true));
  word(36, "data");
  bytes.setUint32(40, 2 * sound.length, true);
  sound.forEach((x, i) => bytes.setInt16(44 + 2 * i, clamp(Math.round(32768 * x), -32768, 32767), true));
  return new Blob([bytes], { type: "audio/wav" });
}

const second = page.rate;
const made = {
  tone: (i, hz = 440) => 0.3 * Math.sin((2 * Math.PI * hz * i) / second),
  click: (i) => (i === second / 2 ? 0.9 : 0),
  sweep: (i) => 0.3 * Math.sin(2 * Math.PI * (100 * (i / second) + (7800 / 2) * (i / second) ** 2)), // 100 .. 7900 Hz
  noise: (() => { // a generator of its own, so that it is the same in every visit
    let state = 1;
    return () => 0.1 * ((state = (1664525 * state + 1013904223) % 2 ** 32) / 2 ** 31 - 1);
  })(),
  silence: () => 0,
};

async function open(file) {
  // A context of 16 kHz resamples what it decodes.
  const context = new OfflineAudioContext(1, 1, page.rate);
  const decoded = await context.decodeAudioData(await file.arrayBuffer());
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, i) => decoded.getChannelData(i));
  const mono = channels[0].map((_, i) => channels.reduce((sum, c) => sum + c[i], 0) / channels.length);
  hear(mono.slice(0, page.frames * page.hop), file.name);
}

async function record(button) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const context = new AudioContext({ sampleRate: page.rate });
  const source = `registerProcessor("tap", class extends AudioWorkletProcessor {
    process([[x]]) { if (x) this.port.postMessage(x); return true; } });`;
  await context.audioWorklet.addModule(`data:text/javascript,${encodeURIComponent(source)}`);
  const tap = new AudioWorkletNode(context, "tap");
  const pieces = [];
  tap.port.onmessage = ({ data }) => pieces.push(data.slice());
  context.createMediaStreamSource(stream).connect(tap);
  const label = button.textContent;
  button.textContent = "Stop";
  await new Promise((done) => {
    button.onclick = done;
    setTimeout(done, 1000 * page.frames * hopSeconds);
  });
  button.onclick = null;
  button.textContent = label;
  stream.getTracks().forEach((track) => track.stop());
  await context.close();
  const sound = new Float32Array(pieces.reduce((n, piece) => n + piece.length, 0));
  pieces.reduce((at, piece) => (sound.set(piece, at), at + piece.length), 0);
  if (sound.length) hear(sound.subarray(0, page.frames * page.hop), "your recording");
}

function complain(error) {
  document.querySelector(".problem").textContent = error ? `That did not work: ${error.message ?? error}` : "";
}
const sounds = {
  own: () => hear(OWN.samples, OWN.name),
  five: () => {
    const pieces = Object.values(made).map((f) => Float32Array.from({ length: second }, (_, i) => f(i)));
    const whole = new Float32Array(pieces.length * second);
    pieces.forEach((piece, i) => whole.set(piece, i * second));
    hear(whole, `a second each of ${Object.keys(made).join(", ")}`);
  },
};
for (const button of all("[data-sound]")) button.addEventListener("click", () => sounds[button.dataset.sound]());
byId("tone").addEventListener("input", ({ target }) => {
  target.nextElementSibling.value = `${target.value} Hz`;
  hear(Float32Array.from({ length: 2 * second }, (_, i) => made.tone(i, +target.value)), `a tone of ${target.value} Hz`);
});
byId("record").addEventListener("click", ({ target }) => {
  if (target.textContent === "Record") record(target).then(() => complain(), complain);
});
byId("file").addEventListener("change", ({ target }) => open(target.files[0]).then(() => complain(), complain));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) open(file).then(() => complain(), complain);
});
