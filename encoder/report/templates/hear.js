// What a stage hears: the moment and the frame as loops, and the clip through the filter of one mel bin.
"use strict";

const listening = { context: null, source: null, button: null };

function silence() {
  listening.source?.stop();
  listening.button?.setAttribute("aria-pressed", "false");
  listening.source = listening.button = null;
}

function sound(button, values, loop) {
  if (listening.button !== button) silence();
  listening.context ??= new AudioContext();
  const { context } = listening;
  const buffer = context.createBuffer(1, values.length, page.rate);
  buffer.copyToChannel(values, 0);
  listening.source?.stop();
  const source = Object.assign(context.createBufferSource(), { buffer, loop });
  source.connect(context.destination);
  source.onended = () => { if (source === listening.source) silence(); };
  source.start();
  Object.assign(listening, { source, button });
  button.setAttribute("aria-pressed", "true");
}

// 200 ms around the moment; 5 ms fade in and out, so that the loop does not click.
function aroundMoment() {
  const [n, fade] = [page.rate / 5, page.rate / 200];
  const middle = frame * page.hop;
  return Float32Array.from({ length: n }, (_, i) => sample(middle - n / 2 + i) * Math.min(1, i / fade, (n - 1 - i) / fade));
}

// The frame as it is given to the Fourier transform, five times a second.
function frameAlone() {
  const out = new Float32Array(page.rate / 5);
  const start = frame * page.hop - page.nFft / 2;
  page.window.forEach((w, i) => { out[i] = w * sample(start + i); });
  return out;
}

// The clip through the filter of one mel bin: a sum of the cosines that it holds, 400 samples long.
async function throughFilter(bin) {
  const { melFilters, window: hill, N_FFT } = await frontEnd();
  const bank = melFilters(nMels).data;
  const weights = bank.subarray(bin * (N_FFT / 2 + 1), (bin + 1) * (N_FFT / 2 + 1));
  const faded = hill();
  const response = faded.map((w, n) => w * weights.reduce(
    (sum, x, k) => (x ? sum + x * Math.cos((2 * Math.PI * k * (n - N_FFT / 2)) / N_FFT) : sum), 0));
  const heard = new Float32Array(samples.length);
  samples.forEach((x, i) => {
    if (x === 0) return;
    for (let n = Math.max(0, N_FFT / 2 - i); n < N_FFT && i + n - N_FFT / 2 < heard.length; n++) {
      heard[i + n - N_FFT / 2] += x * response[n];
    }
  });
  const peak = heard.reduce((a, b) => Math.max(a, Math.abs(b)), 1e-9);
  return heard.map((x) => (0.5 * x) / peak); // as loud as any other bin
}

const pointedBin = () => rowOf.log ?? rowOf.features ?? Math.floor(nMels / 4);
const loops = { "hear-moment": aroundMoment, "hear-frame": frameAlone };
for (const [name, values] of Object.entries(loops)) byId(name).addEventListener("click", ({ target }) => {
  if (listening.button === target) silence();
  else sound(target, values(), true);
});
byId("hear-bin").addEventListener("click", async ({ target }) => {
  if (listening.button === target) return silence();
  const bin = pointedBin();
  sound(target, await throughFilter(bin), false);
  text("bin", pictures.log.labels[bin]);
});
new MutationObserver(() => { // a loop follows the moment
  const { button } = listening;
  if (button && loops[button.id]) sound(button, loops[button.id](), true);
}).observe(root, { attributeFilter: ["data-frame"] });
