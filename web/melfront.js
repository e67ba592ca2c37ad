// Whisper's front end in JavaScript: a waveform to log-mel features, one function per stage.
//
//   import { logMel } from "./melfront.js";
//   const { data, shape } = logMel(samples); // Float32Array of 128 x 3000, bin by bin
//
// The stages, the names and the decisions are those of melfront/oracle.py and
// melfront/conventions.py. Everything is computed in float64. A stage is {data, shape}, rows first:
// L samples, F frames, K = 201 frequencies, M mel bins. Samples are mono, 16 kHz, -1 .. 1.

export const SAMPLE_RATE = 16_000; // Hz
export const N_FFT = 400; // samples = 25 ms
export const HOP_LENGTH = 160; // samples = 10 ms
const K = N_FFT / 2 + 1;

// What may be decided otherwise, and Whisper's choice.
export const CONVENTION = Object.freeze({
  gain: 1, // the waveform is multiplied by it
  preemphasis: 0, // x[n] - preemphasis * x[n - 1]
  frame_start: -N_FFT / 2, // first sample of frame 0
  pad_mode: "reflect", // beyond the edges: or "constant", "edge"
  drop: "last", // of the L / 160 + 1 frames: or "first"
  window: "hann", // or "hamming", "blackman", null
  periodic: true, // a period of 400 samples; false: of 399
  spectrum_scale: 1,
  folded: false, // negative frequencies added
  power: 2, // |X| ** power
  f_min: 0, // Hz
  f_max: 8_000,
  mel_scale: "slaney", // or "htk"
  mel_norm: "slaney", // or null
  flip_mels: false, // highest bin first
  log_base: 10,
  log_factor: 1,
  log_floor: 1e-10, // the least mel power
  max_scope: "item", // the clamp hangs from the loudest value: or of each "frame", or null
  dynamic_range: 8, // how far below it the logarithm may go
  offset: 4, // (x + offset) / divisor
  divisor: 4,
  fill: null, // of the frames after the clip; null: as silence
});
const WORDS = {
  pad_mode: ["reflect", "constant", "edge"],
  drop: ["last", "first"],
  window: ["hann", "hamming", "blackman", null],
  mel_scale: ["slaney", "htk"],
  mel_norm: ["slaney", null],
  max_scope: ["item", "frame", null],
};

// A convention with some decisions changed. Throws RangeError for a name or a word it does not know.
export function convention(changes = {}) {
  for (const [name, value] of Object.entries(changes)) {
    if (!(name in CONVENTION)) throw new RangeError(`no decision is called ${name}`);
    if (name in WORDS && !WORDS[name].includes(value)) {
      throw new RangeError(`${name}: ${value}; expected ${WORDS[name].join(" or ")}`);
    }
  }
  return { ...CONVENTION, ...changes };
}

const tensor = (...shape) => ({ data: new Float64Array(shape.reduce((a, b) => a * b)), shape });

// What is done to a clip before anything else: in Whisper, nothing.
function condition(samples, c) {
  return Float64Array.from(samples, (x, i) => c.gain * (x - c.preemphasis * (i ? samples[i - 1] : 0)));
}

// Zeros after the clip up to `length` samples, then half a window beyond each edge.
export function pad(samples, length, c = CONVENTION) {
  const clip = condition(samples, c);
  const out = tensor(length + N_FFT);
  const at = (i) => clip[i] ?? 0;
  for (let i = 0; i < out.data.length; i++) {
    const n = i + c.frame_start;
    const mirrored = n < 0 ? -n : 2 * (length - 1) - n;
    const beyond = { reflect: mirrored, constant: -1, edge: n < 0 ? 0 : length - 1 }[c.pad_mode];
    out.data[i] = n >= 0 && n < length ? at(n) : at(beyond);
  }
  return out;
}

export function window(c = CONVENTION) {
  return Float64Array.from({ length: N_FFT }, (_, n) => {
    const cosine = Math.cos((2 * Math.PI * n) / (c.periodic ? N_FFT : N_FFT - 1));
    return {
      hann: 0.5 - 0.5 * cosine,
      hamming: 0.54 - 0.46 * cosine,
      blackman: 0.42 - 0.5 * cosine + 0.08 * (2 * cosine ** 2 - 1),
      null: 1,
    }[c.window];
  });
}

// Cosines and sines of the n-th parts of a turn.
function turns(n) {
  const angles = Array.from({ length: n }, (_, i) => (2 * Math.PI * i) / n);
  return [Float64Array.from(angles, Math.cos), Float64Array.from(angles, Math.sin)];
}
const [COS16, SIN16] = turns(16);
const [COS25, SIN25] = turns(25);

// 400 = 16 x 25, which have no common factor. So with n = 25 a + 16 b the angle of n k / 400 turns
// is that of a k / 16 and b k / 25 together: 25 transforms of 16 samples, then 16 of 25 values.
// `frame` is 400 samples; re and im get 201 values each.
export function transform(frame, re, im) {
  const [real, imaginary] = [new Float64Array(N_FFT), new Float64Array(N_FFT)]; // [k % 16][b]
  for (let b = 0; b < 25; b++) {
    for (let k = 0; k <= 8; k++) {
      let [x, y] = [0, 0];
      for (let a = 0; a < 16; a++) {
        const sample = frame[(25 * a + 16 * b) % N_FFT];
        x += sample * COS16[(a * k) % 16];
        y -= sample * SIN16[(a * k) % 16];
      }
      real[25 * k + b] = x;
      imaginary[25 * k + b] = y;
      if (k % 8) { // of real samples, the rest is the mirror image
        real[25 * (16 - k) + b] = x;
        imaginary[25 * (16 - k) + b] = -y;
      }
    }
  }
  for (let k = 0; k < K; k++) {
    const [row, step] = [25 * (k % 16), k % 25];
    let [x, y] = [0, 0];
    for (let b = 0, turn = 0; b < 25; b++, turn = (turn + step) % 25) {
      const [u, v] = [real[row + b], imaginary[row + b]];
      x += u * COS25[turn] + v * SIN25[turn];
      y += v * COS25[turn] - u * SIN25[turn];
    }
    re[k] = x;
    im[k] = y;
  }
}

// The energy of every frame at each of 201 frequencies: padded (L + 400,) -> (F, K).
export function power(padded, c = CONVENTION) {
  const frames = Math.floor((padded.data.length - N_FFT) / HOP_LENGTH);
  const out = tensor(frames, K);
  const hill = window(c);
  const [piece, re, im] = [N_FFT, K, K].map((n) => new Float64Array(n));
  for (let f = 0; f < frames; f++) {
    const start = HOP_LENGTH * (c.drop === "first" ? f + 1 : f);
    for (let n = 0; n < N_FFT; n++) piece[n] = padded.data[start + n] * hill[n];
    if (piece.every((x) => x === 0)) continue;
    transform(piece, re, im);
    for (let k = 0; k < K; k++) {
      const twice = c.folded && k % (K - 1) ? 2 : 1;
      const squared = c.spectrum_scale ** 2 * (re[k] ** 2 + im[k] ** 2) * twice;
      out.data[f * K + k] = c.power === 2 ? squared : squared ** (c.power / 2);
    }
  }
  return out;
}

// Slaney's scale: 3 mels per 200 Hz up to 1 kHz, then 27 mels for each factor of 6.4.
const toMel = {
  slaney: (hz) => (hz < 1000 ? (3 * hz) / 200 : 15 + (27 * Math.log(hz / 1000)) / Math.log(6.4)),
  htk: (hz) => 2595 * Math.log10(1 + hz / 700),
};
const toHz = {
  slaney: (mel) => (mel < 15 ? (200 * mel) / 3 : 1000 * 6.4 ** ((mel - 15) / 27)),
  htk: (mel) => 700 * (10 ** (mel / 2595) - 1),
};

// The corners of the triangles in Hz, equally far apart in mels: M + 2 numbers.
export function corners(nMels, c = CONVENTION) {
  const [low, high] = [c.f_min, c.f_max].map(toMel[c.mel_scale]);
  const hz = (i) => toHz[c.mel_scale](low + ((high - low) * i) / (nMels + 1));
  return Array.from({ length: nMels + 2 }, (_, i) => hz(i));
}

// Triangles from the centre of the bin before to that of the bin after: (M, K).
export function melFilters(nMels, c = CONVENTION) {
  const out = tensor(nMels, K);
  const corner = corners(nMels, c);
  for (let m = 0; m < nMels; m++) {
    const [left, centre, right] = corner.slice(m, m + 3);
    const height = c.mel_norm === "slaney" ? 2 / (right - left) : 1;
    const row = c.flip_mels ? nMels - 1 - m : m;
    for (let k = 0; k < K; k++) {
      const hz = (k * SAMPLE_RATE) / N_FFT;
      const inside = Math.min((hz - left) / (centre - left), (right - hz) / (right - centre));
      out.data[row * K + k] = height * Math.max(0, inside);
    }
  }
  return out;
}

// Neighbouring frequencies averaged: (F, K) -> (M, F).
export function mel(power, nMels, c = CONVENTION) {
  const [frames] = power.shape;
  const out = tensor(nMels, frames);
  const filters = melFilters(nMels, c).data;
  for (let m = 0; m < nMels; m++) {
    for (let k = 0; k < K; k++) {
      const weight = filters[m * K + k];
      if (weight === 0) continue;
      for (let f = 0; f < frames; f++) out.data[m * frames + f] += weight * power.data[f * K + k];
    }
  }
  return out;
}

// Loudness, (M, F) -> (M, F): ten times the power is one step up.
export function log(mel, c = CONVENTION) {
  const factor = c.log_factor / Math.log10(c.log_base);
  return { ...mel, data: mel.data.map((x) => factor * Math.log10(Math.max(x, c.log_floor))) };
}

// Nothing more than 8 below the loudest value: (M, F) -> (M, F).
export function clamp(log, c = CONVENTION) {
  if (c.max_scope === null) return log;
  const frames = log.shape[1];
  const loudest = new Float64Array(frames).fill(-Infinity); // of each frame
  log.data.forEach((x, i) => { loudest[i % frames] = Math.max(loudest[i % frames], x); });
  if (c.max_scope === "item") loudest.fill(loudest.reduce((a, b) => Math.max(a, b)));
  return { ...log, data: log.data.map((x, i) => Math.max(x, loudest[i % frames] - c.dynamic_range)) };
}

// To about -1 .. 1, (M, F) -> (M, F); `heard` frames are the clip's own.
export function scale(clamped, heard, c = CONVENTION) {
  const frames = clamped.shape[1];
  const filled = (i) => c.fill !== null && i % frames >= heard;
  return { ...clamped, data: clamped.data.map((x, i) => (filled(i) ? c.fill : (x + c.offset) / c.divisor)) };
}

// Every stage of `logMel`, by name. `padTo` is in seconds; a clip that is longer is cut.
export function trace(samples, { nMels = 128, padTo = 30, ...changes } = {}) {
  const c = convention(changes);
  const length = Math.round(padTo * SAMPLE_RATE);
  const clip = samples.slice(0, length);
  if (!clip.length) throw new RangeError("no samples");
  const x = { padded: pad(clip, length, c) };
  x.power = power(x.padded, c);
  x.mel = mel(x.power, nMels, c);
  x.log = log(x.mel, c);
  x.clamped = clamp(x.log, c);
  x.features = scale(x.clamped, Math.floor(clip.length / HOP_LENGTH), c);
  return x;
}

// The features (M, F) in float32: {data, shape}. Takes what `trace` takes.
export function logMel(samples, options) {
  const { data, shape } = trace(samples, options).features;
  return { data: Float32Array.from(data), shape };
}
