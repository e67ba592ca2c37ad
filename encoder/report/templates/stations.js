// Where the reader is: the picture of the way, the list of stations, the address, and the words that
// the glossary explains.
"use strict";

// The whole way in one picture: small copies of those further down.
for (const place of all("[data-thumb]")) {
  const { thumb } = place.dataset;
  if (thumb === "waveform") place.append(byId("waveform").querySelector("svg").cloneNode(true));
  else {
    const image = thumb === "attention" ? byId("attention-picture") : pictures[thumb].image;
    const src = thumb === "attention" ? page.attention.sources[0][0] : image.src;
    const small = Object.assign(new Image(), { src, alt: "", decoding: "async" });
    small.style.width = `${(100 * image.style.getPropertyValue("--wide")) / page.span}%`; // the clip alone
    place.append(small);
  }
}

const stations = all(".stations a");
let station = "";
const passing = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) if (isIntersecting) station = target.id;
  for (const link of stations) {
    if (link.hash === `#${station}`) {
      link.setAttribute("aria-current", "true");
      const strip = link.closest(".stations");
      strip.scrollLeft = link.offsetLeft - strip.clientWidth / 2;
    } else link.removeAttribute("aria-current");
  }
  remember();
}, { rootMargin: "-30% 0px -60%" });
for (const section of all("main section")) passing.observe(section);

// The address holds what is shown, so that a link shows what its sender saw.
let remembering = 0;
function remember() {
  clearTimeout(remembering);
  remembering = setTimeout(() => {
    const shown = { t: (frame * hopSeconds).toFixed(2), block: chosen.block + 1, head: chosen.head + 1 };
    history.replaceState(null, "", `#${station}?${new URLSearchParams(shown)}`);
  }, 300);
}
new MutationObserver(remember).observe(root, { attributeFilter: ["data-frame"] });
new MutationObserver(remember).observe(byId("attention-picture"), { attributeFilter: ["data-block", "data-head"] });

function recall() {
  const [id, query] = location.hash.slice(1).split("?");
  if (query === undefined) return;
  const shown = Object.fromEntries([...new URLSearchParams(query)].map(([name, value]) => [name, Number(value)]));
  if (Number.isFinite(shown.t)) show(Math.round(shown.t / hopSeconds));
  const valid = (what, n) => Number.isInteger(shown[what]) && shown[what] >= 1 && shown[what] <= n;
  if (valid("block", page.attention.sources.length)) chosen.block = shown.block - 1;
  if (valid("head", page.attention.sources[0].length)) chosen.head = shown.head - 1;
  byId(id)?.scrollIntoView({ behavior: "instant" });
}
recall();

// The first time that a section uses a word of the glossary, it explains it.
const terms = Object.fromEntries(all("#glossary-section dt").flatMap((term) =>
  [term.textContent, ...term.dataset.also.split(",")].filter(Boolean).map((word) => [word.toLowerCase(), term])));
const known = new RegExp(`\\b(${Object.keys(terms).join("|")})\\b`, "i");
for (const section of all("main section:not(#glossary-section)")) {
  const explained = new Set();
  for (const paragraph of section.querySelectorAll(":scope > p")) {
    for (const node of [...paragraph.childNodes]) {
      const found = node.nodeType === Node.TEXT_NODE && known.exec(node.data);
      const term = found && terms[found[0].toLowerCase()];
      if (!term || explained.has(term)) continue;
      explained.add(term);
      const word = node.splitText(found.index);
      word.splitText(found[0].length);
      const link = Object.assign(document.createElement("a"), { className: "term", href: `#${term.id}` });
      link.dataset.says = term.nextElementSibling.textContent.trim().replace(/\s+/g, " ");
      word.replaceWith(link);
      link.append(word);
    }
  }
}
