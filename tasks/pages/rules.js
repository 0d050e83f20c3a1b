// Which clips a configuration keeps, in the page as in tasks/keep_rules.py: the same numbers, the same comparisons, the same
// ties. `data` holds typed arrays, one value for each clip; NaN stands for what was not measured.

// Arrays from base64, by the names that numpy gives to their types.
const ARRAYS = { "<f4": Float32Array, "<f8": Float64Array, "<i4": Int32Array, "|u1": Uint8Array };

function unpacked(columns) {
  return Object.fromEntries(Object.entries(columns).map(([name, { type, bytes }]) => {
    const raw = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
    return [name, new ARRAYS[type](raw.buffer)];
  }));
}

// The finite values of a column in ascending order.
function ranked(values) {
  return values.filter(Number.isFinite).sort();
}

// The limit beyond which a share of the values is, at the lower or the upper end; see find_cut in tasks/keep_rules.py.
function cutAt(sorted, share, upper) {
  const dropped = Math.floor(share * sorted.length + 1e-9);
  return sorted[upper ? sorted.length - 1 - dropped : dropped];
}

// The number that each axis in use is cut at, by reason.
function limitsOf(axes, sorted, config) {
  const limits = {};
  for (const axis of axes) {
    const measured = sorted[axis.column].length > 0;
    const cuts = [];
    if (config[axis.limit] !== null && (measured || !axis.optional)) cuts.push(config[axis.limit]);
    if (axis.quantile && config[axis.quantile] !== null && measured) {
      cuts.push(cutAt(sorted[axis.column], config[axis.quantile], axis.upper));
    }
    if (cuts.length) limits[axis.reason] = axis.upper ? Math.min(...cuts) : Math.max(...cuts);
  }
  return limits;
}

// For each clip the rules that it fails, as bits in the order of `reasons`; 0 for a clip that is kept.
function verdictOf({ data, axes, sorted, reasons, motions, graces }, config) {
  const count = data.seconds.length;
  const bits = new Uint16Array(count);
  const bit = Object.fromEntries(reasons.map((reason, place) => [reason, 1 << place]));
  const limits = limitsOf(axes, sorted, config);
  const needed = new Set();
  if (config.min_clip_s !== null) {
    for (let i = 0; i < count; i++) if (data.seconds[i] < config.min_clip_s - 1e-6 || data.excused[i]) bits[i] |= bit.too_short;
  }
  const failed = data.excused.map((excused) => (excused && config.min_clip_s !== null ? 0 : bit.measurement_failed));
  for (const axis of axes.filter((one) => one.reason in limits)) {
    const values = data[axis.column];
    const limit = Math.fround(limits[axis.reason]);
    needed.add(axis.column);
    for (let i = 0; i < count; i++) {
      if (axis.upper ? values[i] > limit : values[i] < limit) bits[i] |= bit[axis.reason];
    }
  }
  if (config.max_still_motion !== null) {
    const [motion, change] = [Math.fround(config.max_still_motion), Math.fround(config.max_still_change)];
    needed.add("motion_score").add("change");
    for (let i = 0; i < count; i++) {
      if (data.motion_score[i] < motion && data.change[i] < change) bits[i] |= bit.no_motion;
    }
  }
  if (config.drop_motions.length) {
    const unwanted = motions.map((name) => config.drop_motions.includes(name));
    for (let i = 0; i < count; i++) {
      if (data.camera[i] === 255) bits[i] |= failed[i];
      else if (unwanted[data.camera[i]]) bits[i] |= bit.unwanted_motion;
    }
  }
  for (const column of needed) {
    for (let i = 0; i < count; i++) if (Number.isNaN(data[column][i])) bits[i] |= failed[i];
  }
  if (config.drop_duplicates) markRepeated(data, graces, bits, bit.duplicate);
  return { bits, limits };
}

// Of each group of clips that look alike, mark all but those of its cleanest shot; see `find_repeats` in tasks/keep_rules.py.
function markRepeated(data, graces, bits, mark) {
  const shots = new Map();
  for (let i = 0; i < bits.length; i++) {
    if (data.group[i] < 0 || bits[i]) continue;
    const key = `${data.group[i]} ${data.shot[i]}`;
    const found = shots.get(key) ?? { group: data.group[i], shot: data.shot[i], pixels: data.pixels[i], clips: 0, seconds: 0, text: 0, detail: 0, blocks: 0, sharp: 0 };
    found.clips += 1;
    for (const name of ["text", "detail", "blocks", "sharp", "seconds"]) found[name] += data[name][i];
    shots.set(key, found);
  }
  const groups = new Map();
  for (const one of shots.values()) {
    for (const name of ["text", "detail", "blocks", "sharp"]) one[name] /= one.clips;
    groups.set(one.group, [...(groups.get(one.group) ?? []), one]);
  }
  const best = new Map();
  for (const [group, alike] of groups) best.set(group, cleanestOf(alike, graces));
  for (let i = 0; i < bits.length; i++) {
    const kept = best.get(data.group[i]);
    if (kept && kept.shot !== data.shot[i]) bits[i] |= mark;
  }
}

// Shots come in their order, so of equal ones the first stays.
function cleanestOf(alike, graces) {
  const least = (some, value) => some.reduce((found, one) => Math.min(found, value(one)), Infinity);
  const text = least(alike, (one) => one.text);
  let left = alike.filter((one) => one.text <= text + graces.text);
  const detail = least(left, (one) => -one.detail);
  left = left.filter((one) => -one.detail <= detail * (1 - graces.detail));
  const blocks = least(left, (one) => one.blocks);
  left = left.filter((one) => one.blocks <= blocks + graces.blocks);
  return left.reduce((best, one) => (isBetter(one, best) ? one : best));
}

function isBetter(one, other) {
  if (one.pixels !== other.pixels) return one.pixels > other.pixels;
  if (one.sharp !== other.sharp) return one.sharp > other.sharp;
  return one.seconds > other.seconds;
}

// How many clips fail each rule at all, and how many fail no other.
function countsOf(bits, reasons) {
  const failing = reasons.map(() => 0);
  const only = reasons.map(() => 0);
  for (const code of bits) {
    for (let rest = code; rest; rest &= rest - 1) failing[31 - Math.clz32(rest & -rest)] += 1;
    if (code && !(code & (code - 1))) only[31 - Math.clz32(code)] += 1;
  }
  return { failing, only };
}

// The command that decides so: the nearest preset, and a flag for each setting that differs from it.
function commandOf(folder, config, presets) {
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  const differing = (preset) => Object.keys(config).filter((name) => !same(config[name], preset[name]));
  const names = Object.keys(presets).sort((a, b) => differing(presets[a]).length - differing(presets[b]).length);
  const flags = differing(presets[names[0]]).flatMap((name) => {
    const flag = name.replaceAll("_", "-");
    const value = config[name];
    if (typeof value === "boolean") return [value ? `--${flag}` : `--no-${flag}`];
    if (Array.isArray(value)) return value.map((one) => `--${flag} ${one}`);
    return [`--${flag} ${value === null ? "none" : value}`];
  });
  return ["reelmill select", quoted(folder), "--preset", names[0], ...flags].join(" ");
}

// A word as a POSIX shell takes it.
function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
