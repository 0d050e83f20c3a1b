// The tuning panel: a card for each axis, with the clips on both sides of its threshold. Everything shown follows from
// `state.config`; a control changes that and asks for `refresh`.

const BINS = 48;
const BESIDE = 3; // Pictures on each side of a threshold.

const tuning = JSON.parse(document.getElementById("tuning-data").textContent);
const data = unpacked(tuning.columns);
const state = { config: { ...tuning.config }, cards: [] };
const columns = [...new Set([...tuning.axes, ...tuning.cards].map((axis) => axis.column))];
const model = {
  data, axes: tuning.axes, reasons: tuning.reasons, motions: tuning.motions, graces: tuning.graces,
  sorted: Object.fromEntries(columns.map((column) => [column, ranked(data[column])])),
};

function made(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function byId(id) {
  return document.getElementById(id);
}

function counted(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

function short(number) {
  return Number(number.toPrecision(3)).toString();
}

function duration(seconds) {
  if (seconds < 99.95) return `${seconds.toFixed(1)} s`;
  const minutes = seconds / 60;
  return minutes < 99.95 ? `${minutes.toFixed(1)} min` : `${Math.floor(minutes / 60)} h ${String(Math.floor(minutes % 60)).padStart(2, "0")} min`;
}

// A round step of about a two-hundredth of a span.
function stepOf(span) {
  const power = 10 ** Math.floor(Math.log10(span / 200));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => span / step <= 220) ?? power;
}

// The scale of an axis: from its lowest values, or 0 if that is near, to its 99th percentile; what is beyond goes into the
// first and the last bar.
function scaleOf(sorted) {
  const last = sorted[Math.floor(0.99 * (sorted.length - 1))];
  const low = sorted[0] >= 0 && sorted[0] < 0.2 * last ? 0 : sorted[Math.floor(0.001 * sorted.length)];
  const high = last > low ? last : low + 1;
  const step = stepOf(high - low);
  const [from, to] = [Math.floor(low / step) * step, Math.ceil(high / step) * step];
  return { from: Number(from.toPrecision(12)), to: Number(to.toPrecision(12)), step: Number(step.toPrecision(6)) };
}

function binsOf(values, { from, to }) {
  return Uint8Array.from(values, (value) => (Number.isNaN(value) ? 255 : Math.max(0, Math.min(BINS - 1, Math.floor(((value - from) / (to - from)) * BINS)))));
}

function cardOf(axis) {
  const sorted = model.sorted[axis.column];
  const scale = scaleOf(sorted);
  const id = axis.reason.replaceAll("_", "-");
  const share = (value) => 100 * Math.max(0, Math.min(1, (value - scale.from) / (scale.to - scale.from)));
  const plot = made("div", { className: "plot" });
  const line = made("div", { className: "line" });
  const slider = made("input", { type: "range", id: `${id}-slider`, min: scale.from, max: scale.to, step: scale.step });
  slider.setAttribute("aria-label", `${axis.title}, threshold`);
  const number = made("input", { type: "number", id: `${id}-number`, step: "any", placeholder: "off" });
  const marks = made("div", { className: "marks" });
  const levels = made("div", { className: "levels" });
  for (const mark of axis.quantile ? tuning.marks : []) {
    const value = cutAt(sorted, mark, axis.upper);
    marks.append(made("i", { style: `left:${share(value)}%`, title: `${100 * mark} % are ${axis.upper ? "above" : "below"} ${short(value)}` }));
    const level = made("button", { type: "button", textContent: `${100 * mark} %` });
    level.dataset.mark = mark;
    level.setAttribute("aria-label", `${axis.title}: drop the ${axis.upper ? "highest" : "lowest"} ${100 * mark} %, at ${short(value)}`);
    level.onclick = () => set({ [axis.quantile]: state.config[axis.quantile] === mark ? null : mark });
    levels.append(level);
  }
  if (axis.quantile) levels.prepend(made("span", { className: "quiet", textContent: `drop the ${axis.upper ? "highest" : "lowest"}` }));
  const off = made("button", { type: "button", textContent: "off" });
  off.setAttribute("aria-label", `${axis.title}: no threshold`);
  off.onclick = () => set({ [axis.limit]: null, ...(axis.quantile ? { [axis.quantile]: null } : {}) });
  slider.oninput = () => set({ [axis.limit]: Number(slider.value), ...(axis.quantile ? { [axis.quantile]: null } : {}) });
  number.oninput = () => number.value === "" || number.validity.valid ? set({ [axis.limit]: number.value === "" ? null : Number(number.value) }) : null;
  const effect = made("p", { className: "effect" });
  const edge = made("div", { className: "edge" });
  plot.append(marks, line);
  const field = made("fieldset", { className: "axis", id: `axis-${id}` },
    made("legend", { textContent: axis.title }), plot, slider,
    made("p", { className: "row" }, number, made("label", { className: "quiet", htmlFor: number.id, textContent: axis.unit }), off),
    ...(axis.quantile ? [levels] : []), effect, edge);
  const pictures = tuning.previews.filter((one) => !Number.isNaN(data[axis.column][one.row]))
    .sort((a, b) => data[axis.column][a.row] - data[axis.column][b.row]);
  return { axis, field, plot, line, slider, number, levels, off, effect, edge, pictures, share, bins: binsOf(data[axis.column], scale) };
}

// Bars of kept clips, on them those that this axis drops, on them those that others drop, as three filled paths.
function drawPlot(card, bits, own) {
  const parts = [new Uint32Array(BINS), new Uint32Array(BINS), new Uint32Array(BINS)];
  card.bins.forEach((bin, i) => { if (bin < BINS) parts[bits[i] === 0 ? 0 : bits[i] & own ? 1 : 2][bin] += 1; });
  const most = Math.max(1, ...parts[0].map((kept, bin) => kept + parts[1][bin] + parts[2][bin]));
  const base = new Float64Array(BINS);
  const paths = parts.map((part, kind) => {
    let path = "";
    part.forEach((count, bin) => {
      // A square root keeps the tail of a long-tailed distribution visible.
      const [low, high] = [Math.sqrt(base[bin] / most), Math.sqrt((base[bin] + count) / most)];
      if (count) path += `M${bin + 0.08} ${1 - low}V${1 - high}H${bin + 0.92}V${1 - low}Z`;
      base[bin] += count;
    });
    return `<path class="part${kind}" d="${path}"/>`;
  });
  card.plot.querySelector("svg")?.remove();
  card.plot.insertAdjacentHTML("afterbegin", `<svg viewBox="0 0 ${BINS} 1" preserveAspectRatio="none" aria-hidden="true">${paths.join("")}</svg>`);
}

function thumbnail(preview, card, bits) {
  const value = data[card.axis.column][preview.row];
  const reasons = tuning.reasons.filter((_, place) => bits[preview.row] >> place & 1).map((reason) => tuning.titles[reason].toLowerCase());
  const said = `${preview.name}: ${short(value)}, ${reasons.length ? `dropped (${reasons.join(", ")})` : "kept"}`;
  const node = made("figure", { className: `thumb${reasons.length ? " gone" : ""}`, tabIndex: 0, title: said });
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", said);
  const picture = made("div", { className: "window" });
  for (const [name, of] of [["--n", preview.frames], ["--w", preview.width], ["--h", preview.height], ["--rest", 0], ["--strip", `url(${preview.url})`]]) {
    picture.style.setProperty(name, of);
  }
  node.append(picture, made("figcaption", { textContent: short(value) }));
  return node;
}

// The pictured clips nearest to the threshold on both sides of it, in the order of their values.
function drawEdge(card, bits, limit) {
  const values = card.pictures.map((one) => data[card.axis.column][one.row]);
  const cut = limit === undefined ? (card.axis.upper ? Infinity : -Infinity) : Math.fround(limit);
  const at = values.findIndex((value) => (card.axis.upper ? value > cut : value >= cut));
  const place = at < 0 ? values.length : at;
  const start = Math.max(0, Math.min(place - BESIDE, values.length - 2 * BESIDE));
  const shown = card.pictures.slice(start, start + 2 * BESIDE);
  const nodes = shown.map((one) => thumbnail(one, card, bits));
  if (limit !== undefined && place > start && place < start + shown.length) nodes.splice(place - start, 0, made("i", { className: "cut" }));
  card.edge.replaceChildren(...nodes);
}

function drawCard(card, { bits, limits }, counts) {
  const { axis } = card;
  const limit = axis.reason === "too_short" ? state.config.min_clip_s ?? undefined : limits[axis.reason];
  const place = tuning.reasons.indexOf(axis.reason);
  drawPlot(card, bits, 1 << place);
  drawEdge(card, bits, limit);
  card.field.classList.toggle("off", limit === undefined);
  card.line.hidden = limit === undefined;
  if (limit !== undefined) card.line.style.left = `${card.share(limit)}%`;
  if (document.activeElement !== card.slider) card.slider.value = limit ?? (axis.upper ? card.slider.max : card.slider.min);
  card.slider.setAttribute("aria-valuetext", limit === undefined ? "off" : short(limit));
  if (document.activeElement !== card.number) card.number.value = state.config[axis.limit] ?? "";
  for (const level of card.levels.querySelectorAll("button[data-mark]")) {
    level.setAttribute("aria-pressed", state.config[axis.quantile] === Number(level.dataset.mark));
  }
  card.off.setAttribute("aria-pressed", limit === undefined);
  card.effect.textContent = limit === undefined ? "Nothing is dropped by it."
    : `${axis.upper ? "Over" : "Under"} ${short(limit)}: drops ${counted(counts.failing[place], "clip")}, ${counts.only[place].toLocaleString("en")} by nothing else.`;
}

function drawRest(counts) {
  for (const line of document.querySelectorAll("#tuning .effect[data-reason]")) {
    const place = tuning.reasons.indexOf(line.dataset.reason);
    line.textContent = `${tuning.titles[line.dataset.reason]}: ${counted(counts.failing[place], "clip")}, ${counts.only[place].toLocaleString("en")} by nothing else.`;
  }
  for (const input of document.querySelectorAll("#tuning [data-setting]")) {
    if (input.type === "checkbox") input.checked = state.config[input.dataset.setting];
    else if (document.activeElement !== input) input.value = state.config[input.dataset.setting] ?? "";
  }
  for (const tick of document.querySelectorAll("#motions input")) tick.checked = state.config.drop_motions.includes(tick.value);
}

// The dataset's folder: where the page is, so that it is right after a move; else where it was written.
function folder() {
  const path = decodeURIComponent(location.pathname);
  return location.protocol === "file:" && path.endsWith("/report/index.html") ? path.slice(0, -"/report/index.html".length) : tuning.folder;
}

function refresh() {
  const verdict = verdictOf(model, state.config);
  const counts = countsOf(verdict.bits, tuning.reasons);
  let [kept, seconds] = [0, 0];
  verdict.bits.forEach((code, i) => { if (!code) { kept += 1; seconds += data.seconds[i]; } });
  const total = verdict.bits.length;
  byId("kept-count").textContent = kept.toLocaleString("en");
  byId("of").textContent = ` of ${counted(total, "clip")} kept, ${duration(seconds)}`;
  byId("share").style.width = `${(100 * kept) / Math.max(total, 1)}%`;
  byId("command").value = commandOf(folder(), state.config, tuning.presets);
  state.cards.forEach((card) => drawCard(card, verdict, counts));
  drawRest(counts);
}

// Change some settings; what is shown follows with the next frame.
function set(changes) {
  Object.assign(state.config, changes);
  byId("preset").value = "";
  cancelAnimationFrame(state.frame);
  state.frame = requestAnimationFrame(refresh);
}

function offerPresets() {
  const names = { "": "…", now: "the page as it was written", ...Object.fromEntries(Object.keys(tuning.presets).map((name) => [name, name.replaceAll("-", " ")])) };
  byId("preset").append(...Object.entries(names).map(([value, text]) => made("option", { value, text })));
  byId("preset").value = "now";
  byId("preset").onchange = ({ target }) => {
    if (!target.value) return;
    const chosen = target.value;
    set({ ...(chosen === "now" ? tuning.config : tuning.presets[chosen]) });
    target.value = chosen;
  };
}

function offerMotions() {
  const counts = tuning.motions.map((_, code) => data.camera.reduce((sum, one) => sum + (one === code), 0));
  const most = Math.max(1, ...counts);
  byId("motions").querySelector(".ticks").append(...tuning.motions.map((motion, code) => {
    const tick = made("input", { type: "checkbox", value: motion });
    tick.onchange = () => set({ drop_motions: tuning.motions.filter((name) => (name === motion ? tick.checked : state.config.drop_motions.includes(name))) });
    const bar = made("i", { style: `--share:${counts[code] / most}` });
    return made("label", {}, tick, ` ${motion.replaceAll("_", " ")} `, made("span", { className: "quiet", textContent: counts[code].toLocaleString("en") }), bar);
  }));
}

async function copy() {
  const text = byId("command").value;
  byId("command").select();
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // A page opened from disk may have no clipboard of its own; the selection has the text.
    document.execCommand("copy");
  }
  byId("copy").textContent = "Copied";
  setTimeout(() => { byId("copy").textContent = "Copy the command"; }, 1500);
}

state.cards = tuning.cards.map(cardOf);
byId("axes").append(...state.cards.map((card) => card.field));
for (const input of document.querySelectorAll("#tuning [data-setting]")) {
  input.oninput = () => {
    if (input.type === "checkbox") set({ [input.dataset.setting]: input.checked });
    else if (input.validity.valid) set({ [input.dataset.setting]: input.value === "" ? tuning.presets["keep-all"][input.dataset.setting] : Number(input.value) });
  };
}
offerPresets();
offerMotions();
byId("copy").onclick = copy;
byId("sampled").hidden = tuning.clips === data.seconds.length;
byId("sampled").textContent = `The panel counts every ${Math.round(tuning.clips / Math.max(data.seconds.length, 1))}th of ${counted(tuning.clips, "clip")}; the command decides on all of them.`;
byId("tuning").hidden = false;
refresh();
