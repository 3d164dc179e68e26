"use strict";
// Runs a packed model: core ATen operations on arrays without gaps, one token at a time.
// A value is a number or {s: sizes, d: typed array}: Float32Array, Float64Array for int64 (exact to 2^53), Int32Array
// for int32, Uint8Array for bool.
const bitgolf = (() => {
  const TYPES = { float32: Float32Array, float64: Float32Array, int64: Float64Array, int32: Int32Array, bool: Uint8Array };
  const count = (sizes) => sizes.reduce((a, b) => a * b, 1);
  const isTensor = (x) => typeof x === "object" && x !== null && "d" in x;
  const tensor = (s, d) => ({ s, d });
  const axis = (x, dim) => (dim < 0 ? dim + x.s.length : dim);
  const made = (s, type) => tensor(s, new type(count(s)));
  const whole = (x) => (isTensor(x) ? !(x.d instanceof Float32Array) : Number.isInteger(x));
  // [outer, size, inner] of a dimension: element i of it is at (o * size + i) * inner + j.
  const parts = (x, dim) => {
    const at = axis(x, dim);
    return [count(x.s.slice(0, at)), x.s[at] ?? 1, count(x.s.slice(at + 1))];
  };

  function broadcast(a, b) {
    const n = Math.max(a.length, b.length), s = [];
    for (let i = 0; i < n; i++) {
      const x = a[a.length - n + i] ?? 1, y = b[b.length - n + i] ?? 1;
      s.push(x === 1 ? y : x);
    }
    return s;
  }

  // Where each element of sizes s is found in x: its index, or undefined where they are the same.
  function spread(x, s) {
    if (x.s.length === s.length && x.s.every((n, i) => n === s[i])) return undefined;
    const index = new Int32Array(count(s));
    const lead = s.length - x.s.length;
    const strides = [];
    for (let i = x.s.length - 1, step = 1; i >= 0; step *= x.s[i], i--) strides[i + lead] = x.s[i] === 1 ? 0 : step;
    let filled = 1;
    for (let i = s.length - 1; i >= 0; filled *= s[i], i--) {
      const step = strides[i] ?? 0;
      for (let k = 1; k < s[i]; k++) for (let j = 0; j < filled; j++) index[k * filled + j] = index[j] + k * step;
    }
    return index;
  }

  // What an operation on two values gives: floats win over whole numbers, a tensor's type over a number's.
  function joint(a, b) {
    if (isTensor(a) && isTensor(b)) {
      for (const type of [Float32Array, Float64Array, Int32Array]) if (a.d instanceof type || b.d instanceof type) return type;
      return Uint8Array;
    }
    const [x, number] = isTensor(a) ? [a, b] : [b, a];
    if (!whole(number) && whole(x)) return Float32Array;
    return x.d instanceof Uint8Array && typeof number !== "boolean" ? Float64Array : x.d.constructor;
  }

  const two = (f, type, exact) => (a, b) => {
    if (!isTensor(a) && !isTensor(b)) return f(a, b);
    const out = type ?? joint(a, b);
    const g = exact && out === Int32Array ? exact : f;
    if (!isTensor(b) || (b.d.length === 1 && a.s?.length >= b.s.length)) {
      const y = isTensor(b) ? b.d[0] : b, r = made(a.s, out);
      for (let i = 0; i < r.d.length; i++) r.d[i] = g(a.d[i], y);
      return r;
    }
    if (!isTensor(a)) {
      const r = made(b.s, out);
      for (let i = 0; i < r.d.length; i++) r.d[i] = g(a, b.d[i]);
      return r;
    }
    const s = broadcast(a.s, b.s), r = made(s, out), ia = spread(a, s), ib = spread(b, s);
    for (let i = 0; i < r.d.length; i++) r.d[i] = g(a.d[ia ? ia[i] : i], b.d[ib ? ib[i] : i]);
    return r;
  };
  const one = (f, type) => (x, ...rest) => {
    if (!isTensor(x)) return f(x, ...rest);
    const r = made(x.s, type ?? (whole(x) ? Float32Array : x.d.constructor));
    for (let i = 0; i < r.d.length; i++) r.d[i] = f(x.d[i], ...rest);
    return r;
  };
  const same = (f) => (x, ...rest) => {
    const r = made(x.s, x.d.constructor);
    for (let i = 0; i < r.d.length; i++) r.d[i] = f(x.d[i], ...rest);
    return r;
  };
  const remainder = (a, b) => a - b * Math.floor(a / b);
  const erf = (x) => { // Abramowitz and Stegun 7.1.26, to 1.5e-7
    const t = 1 / (1 + 0.3275911 * Math.abs(x));
    const y = 1 - ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t * Math.exp(-x * x);
    return Math.sign(x) * y;
  };

  function permute(x, dims) {
    dims = dims.map((d) => axis(x, d));
    const s = dims.map((d) => x.s[d]);
    const moved = dims.filter((d) => x.s[d] > 1);
    if (moved.every((d, i) => i === 0 || d > moved[i - 1])) return tensor(s, x.d); // the numbers stay where they are
    const steps = [];
    for (let i = x.s.length - 1, step = 1; i >= 0; step *= x.s[i], i--) steps[i] = step;
    const r = made(s, x.d.constructor);
    const at = new Array(s.length).fill(0);
    for (let i = 0, from = 0; i < r.d.length; i++) {
      r.d[i] = x.d[from];
      for (let k = s.length - 1; k >= 0; k--) {
        from += steps[dims[k]];
        if (++at[k] < s[k]) break;
        from -= steps[dims[k]] * s[k];
        at[k] = 0;
      }
    }
    return r;
  }

  function view(x, sizes) {
    const known = sizes.reduce((a, b) => (b < 0 ? a : a * b), 1);
    return tensor(sizes.map((n) => (n < 0 ? x.d.length / known : n)), x.d);
  }

  function slice(x, dim = 0, start = 0, end = Infinity, step = 1) {
    const [outer, size, inner] = parts(x, dim);
    const place = (n) => Math.min(Math.max(n < 0 ? n + size : n, 0), size);
    start = place(start ?? 0);
    end = Math.max(start, place(end ?? size));
    const kept = Math.ceil((end - start) / step), s = x.s.slice();
    s[axis(x, dim)] = kept;
    if (step === 1 && outer === 1) return tensor(s, x.d.subarray(start * inner, end * inner));
    const r = made(s, x.d.constructor);
    for (let o = 0; o < outer; o++)
      for (let i = 0; i < kept; i++) {
        const from = (o * size + start + i * step) * inner;
        r.d.set(x.d.subarray(from, from + inner), (o * kept + i) * inner);
      }
    return r;
  }

  function cat(list, dim = 0) {
    list = list.filter((x) => x.d.length > 0 || x.s.length > 1);
    const at = axis(list[0], dim), s = list[0].s.slice();
    s[at] = list.reduce((n, x) => n + x.s[at], 0);
    const r = made(s, list[0].d.constructor), outer = count(s.slice(0, at));
    for (let o = 0, to = 0; o < outer; o++)
      for (const x of list) {
        const run = x.d.length / outer;
        r.d.set(x.d.subarray(o * run, (o + 1) * run), to);
        to += run;
      }
    return r;
  }

  // f(array, first, size, step, put): reads a run along a dimension, and puts what becomes of it.
  function along(x, dim, f, type, keepsSize) {
    const [outer, size, inner] = parts(x, dim), s = x.s.slice();
    if (!keepsSize) s[axis(x, dim)] = 1;
    const r = made(s, type ?? x.d.constructor), length = keepsSize ? size : 1;
    for (let o = 0; o < outer; o++)
      for (let j = 0; j < inner; j++) f(x.d, o * size * inner + j, size, inner, r.d, o * length * inner + j);
    return r;
  }

  const reduced = (f, type) => (x, dims, keepdim = false) => {
    dims = (Array.isArray(dims) ? dims : dims === undefined || dims === null ? [] : [dims]).map((d) => axis(x, d));
    if (dims.length === 0) dims = x.s.map((_, i) => i);
    let r = x;
    for (const dim of dims)
      r = along(r, dim, (d, first, size, step, out, to) => { out[to] = f(d, first, size, step); }, type?.(x));
    return keepdim ? r : tensor(r.s.filter((_, i) => !dims.includes(i)), r.d);
  };
  const total = (d, first, size, step) => {
    let sum = 0;
    for (let i = 0, at = first; i < size; i++, at += step) sum += d[at];
    return sum;
  };
  const best = (better) => (d, first, size, step) => {
    let found = d[first];
    for (let i = 1, at = first + step; i < size; i++, at += step) if (better(d[at], found)) found = d[at];
    return found;
  };
  const sum = reduced(total, (x) => (x.d instanceof Uint8Array ? Float64Array : undefined));

  function softmax(x, dim) {
    return along(x, dim, (d, first, size, step, out, to) => {
      let highest = -Infinity, all = 0;
      for (let i = 0; i < size; i++) highest = Math.max(highest, d[first + i * step]);
      for (let i = 0; i < size; i++) all += out[to + i * step] = Math.exp(d[first + i * step] - highest);
      for (let i = 0; i < size; i++) out[to + i * step] /= all;
    }, Float32Array, true);
  }

  function dot(a, i, b, j, n) {
    let p = 0, q = 0, r = 0, s = 0, k = 0;
    for (; k + 3 < n; k += 4) {
      p += a[i + k] * b[j + k];
      q += a[i + k + 1] * b[j + k + 1];
      r += a[i + k + 2] * b[j + k + 2];
      s += a[i + k + 3] * b[j + k + 3];
    }
    for (; k < n; k++) p += a[i + k] * b[j + k];
    return p + q + r + s;
  }

  function linear(x, w, bias) {
    const inputs = w.s[1], outputs = w.s[0], rows = x.d.length / inputs;
    const r = made([...x.s.slice(0, -1), outputs], Float32Array);
    for (let row = 0; row < rows; row++)
      for (let o = 0; o < outputs; o++)
        r.d[row * outputs + o] = dot(x.d, row * inputs, w.d, o * inputs, inputs) + (bias ? bias.d[o] : 0);
    return r;
  }

  function bmm(a, b) {
    const [batch, rows, inner] = a.s, columns = b.s[2], r = made([batch, rows, columns], Float32Array);
    for (let n = 0; n < batch; n++)
      for (let i = 0; i < rows; i++)
        for (let k = 0; k < inner; k++) {
          const f = a.d[(n * rows + i) * inner + k], from = (n * inner + k) * columns, to = (n * rows + i) * columns;
          for (let j = 0; j < columns; j++) r.d[to + j] += f * b.d[from + j];
        }
    return r;
  }
  const mm = (a, b) => {
    const r = bmm(tensor([1, ...a.s], a.d), tensor([1, ...b.s], b.d));
    return tensor([a.s[0], b.s[1]], r.d);
  };

  function embedding(w, ids) {
    const width = w.s[1], r = made([...ids.s, width], w.d.constructor);
    for (let i = 0; i < ids.d.length; i++) r.d.set(w.d.subarray(ids.d[i] * width, (ids.d[i] + 1) * width), i * width);
    return r;
  }

  function index(x, at) {
    const dim = at.findIndex((each) => each !== null);
    if (at.filter((each) => each !== null).length > 1) throw new Error("index by several tensors");
    const [outer, size, inner] = parts(x, dim), ids = at[dim];
    const r = made([...x.s.slice(0, dim), ...ids.s, ...x.s.slice(dim + 1)], x.d.constructor);
    for (let o = 0; o < outer; o++)
      for (let i = 0; i < ids.d.length; i++) {
        const from = (o * size + (ids.d[i] < 0 ? ids.d[i] + size : ids.d[i])) * inner;
        r.d.set(x.d.subarray(from, from + inner), (o * ids.d.length + i) * inner);
      }
    return r;
  }

  function gather(x, dim, ids) {
    const [outer, size, inner] = parts(x, dim), kept = parts(ids, dim)[1], r = made(ids.s, x.d.constructor);
    for (let o = 0; o < outer; o++)
      for (let i = 0; i < kept; i++)
        for (let j = 0; j < inner; j++) {
          const to = (o * kept + i) * inner + j;
          r.d[to] = x.d[(o * size + ids.d[to]) * inner + j];
        }
    return r;
  }

  function where(condition, a, b) {
    const s = broadcast(condition.s, broadcast(a.s ?? [], b.s ?? []));
    const x = isTensor(a) ? a : full([], a), y = isTensor(b) ? b : full([], b);
    const r = made(s, joint(x, y)), c = spread(condition, s), i = spread(x, s), j = spread(y, s);
    for (let k = 0; k < r.d.length; k++) r.d[k] = condition.d[c ? c[k] : k] ? x.d[i ? i[k] : k] : y.d[j ? j[k] : k];
    return r;
  }

  function full(s, value, { dtype } = {}) {
    const type = dtype ? TYPES[dtype] : typeof value === "boolean" ? Uint8Array : Number.isInteger(value) ? Float64Array : Float32Array;
    const r = made(s, type);
    r.d.fill(value);
    return r;
  }

  function pad(x, amounts, value = 0) {
    let r = x;
    for (let k = 0; 2 * k < amounts.length; k++) {
      const dim = x.s.length - 1 - k, [before, after] = [amounts[2 * k], amounts[2 * k + 1]];
      const lead = Math.max(before, 0), trail = Math.max(after, 0);
      r = slice(r, dim, Math.max(-before, 0), r.s[dim] + Math.min(after, 0));
      const filled = (n) => {
        const s = r.s.slice();
        s[dim] = n;
        const f = made(s, x.d.constructor);
        f.d.fill(value ?? 0);
        return f;
      };
      if (lead || trail) r = cat([filled(lead), r, filled(trail)], dim);
    }
    return r;
  }

  const running = (x, dim, f, type) => along(x, dim, (d, first, size, step, out, to) => {
    let kept;
    for (let i = 0; i < size; i++) out[to + i * step] = kept = i ? f(kept, d[first + i * step]) : d[first];
  }, type, true);
  const triangle = (keeps) => (x, diagonal = 0) => {
    const [rows, columns] = x.s.slice(-2), r = tensor(x.s, x.d.slice());
    for (let i = 0; i < r.d.length; i++) {
      const row = Math.floor(i / columns) % rows, column = i % columns;
      if (!keeps(column - row, diagonal)) r.d[i] = 0;
    }
    return r;
  };
  const scaled = (f) => (a, b, { alpha = 1 } = {}) => f(a, alpha === 1 ? b : OPERATIONS.mul(b, alpha));
  const sized = (x, sizes) => {
    const lead = sizes.length - x.s.length;
    return sizes.map((n, i) => (n === -1 ? x.s[i - lead] : n));
  };
  function taken(x, s) {
    const from = spread(x, s);
    if (!from) return x;
    const r = made(s, x.d.constructor);
    for (let i = 0; i < r.d.length; i++) r.d[i] = x.d[from[i]];
    return r;
  }
  const without = (x, dims) => tensor(x.s.filter((n, i) => !(n === 1 && dims.includes(i))), x.d);
  const cast = (x, { dtype } = {}) => {
    const type = dtype ? TYPES[dtype] : x.d.constructor;
    if (type === x.d.constructor) return x;
    const r = made(x.s, type);
    for (let i = 0; i < r.d.length; i++) r.d[i] = type === Uint8Array ? x.d[i] !== 0 : type === Float32Array ? x.d[i] : Math.trunc(x.d[i]);
    return r;
  };
  const maximum = (a, b) => (a > b ? a : b), minimum = (a, b) => (a < b ? a : b);

  const OPERATIONS = {
    add: scaled(two((a, b) => a + b)), sub: scaled(two((a, b) => a - b)),
    mul: two((a, b) => a * b, undefined, Math.imul), div: two((a, b) => a / b, Float32Array),
    rsub: scaled((a, b) => two((x, y) => y - x)(a, b)),
    remainder: two(remainder), floordiv: (a, b) => Math.floor(a / b),
    maximum: two(maximum), minimum: two(minimum), sym_max: maximum, sym_min: minimum,
    eq: two((a, b) => a === b, Uint8Array), ne: two((a, b) => a !== b, Uint8Array),
    lt: two((a, b) => a < b, Uint8Array), le: two((a, b) => a <= b, Uint8Array),
    gt: two((a, b) => a > b, Uint8Array), ge: two((a, b) => a >= b, Uint8Array),
    bitwise_and: two((a, b) => a & b), bitwise_or: two((a, b) => a | b), bitwise_xor: two((a, b) => a ^ b),
    logical_and: two((a, b) => a && b, Uint8Array), logical_or: two((a, b) => a || b, Uint8Array),
    logical_not: one((x) => !x, Uint8Array), bitwise_not: same((x) => (x === 0 ? 1 : 0)),
    pow: (a, b) => (b === 2 ? same((x) => x * x)(a) : two(Math.pow, Float32Array)(a, b)),
    neg: same((x) => -x), abs: same(Math.abs), sign: same(Math.sign), floor: same(Math.floor), ceil: same(Math.ceil),
    exp: one(Math.exp), log: one(Math.log), sin: one(Math.sin), cos: one(Math.cos), tanh: one(Math.tanh),
    erf: one(erf), sqrt: one(Math.sqrt), rsqrt: one((x) => 1 / Math.sqrt(x)), reciprocal: one((x) => 1 / x),
    sigmoid: one((x) => 1 / (1 + Math.exp(-x))), silu: one((x) => x / (1 + Math.exp(-x))),
    gelu: (x, { approximate = "none" } = {}) => same(approximate === "tanh"
      ? (v) => 0.5 * v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v * v * v)))
      : (v) => 0.5 * v * (1 + erf(v / Math.SQRT2)))(x),
    relu: same((x) => (x > 0 ? x : 0)), leaky_relu: same((x, slope = 0.01) => (x > 0 ? x : slope * x)),
    clamp: same((x, low, high) => Math.min(Math.max(x, low ?? -Infinity), high ?? Infinity)),
    clamp_min: same((x, low) => Math.max(x, low)), clamp_max: same((x, high) => Math.min(x, high)),
    sum, mean: (x, dims, keepdim) => {
      const r = sum(x, dims, keepdim), n = x.d.length / r.d.length;
      return same((v) => v / n)(r);
    },
    linalg_vector_norm: (x, order = 2, dims, keepdim) => one(Math.sqrt)(sum(same((v) => v * v)(x), dims, keepdim)),
    amax: reduced(best((a, b) => a > b)), amin: reduced(best((a, b) => a < b)),
    any: reduced((d, first, size, step) => total(d, first, size, step) !== 0, () => Uint8Array),
    argmax: (x, dim, keepdim) => reduced((d, first, size, step) => {
      let found = 0;
      for (let i = 1; i < size; i++) if (d[first + i * step] > d[first + found * step]) found = i;
      return found;
    }, () => Float64Array)(x, dim, keepdim),
    cumsum: (x, dim) => running(x, dim, (a, b) => a + b, x.d instanceof Uint8Array ? Float64Array : undefined),
    cummax: (x, dim) => [running(x, dim, maximum), null],
    softmax, linear, bmm, mm, addmm: (c, a, b) => OPERATIONS.add(mm(a, b), c), embedding, index, gather, where,
    index_select: (x, dim, ids) => index(x, [...new Array(axis(x, dim)).fill(null), ids]),
    masked_fill: (x, mask, value) => {
      const s = broadcast(x.s, mask.s), r = made(s, x.d.constructor), i = spread(x, s), j = spread(mask, s);
      const v = isTensor(value) ? value.d[0] : value;
      for (let k = 0; k < r.d.length; k++) r.d[k] = mask.d[j ? j[k] : k] ? v : x.d[i ? i[k] : k];
      return r;
    },
    tril: triangle((ahead, diagonal) => ahead <= diagonal), triu: triangle((ahead, diagonal) => ahead >= diagonal),
    permute, view, slice, cat,
    transpose: (x, a, b) => {
      const dims = x.s.map((_, i) => i);
      [dims[axis(x, a)], dims[axis(x, b)]] = [dims[axis(x, b)], dims[axis(x, a)]];
      return permute(x, dims);
    },
    select: (x, dim, place) => {
      const r = slice(x, dim, place < 0 ? place + x.s[axis(x, dim)] : place, (place < 0 ? place + x.s[axis(x, dim)] : place) + 1);
      return tensor(r.s.filter((_, i) => i !== axis(x, dim)), r.d);
    },
    split_with_sizes: (x, sizes, dim = 0) => {
      let start = 0;
      return sizes.map((n) => slice(x, dim, start, (start += n)));
    },
    getitem: (list, place) => list[place],
    unsqueeze: (x, dim) => {
      const s = x.s.slice();
      s.splice(dim < 0 ? dim + x.s.length + 1 : dim, 0, 1);
      return tensor(s, x.d);
    },
    squeeze: (x, dims) => without(x, (dims === undefined ? x.s.map((_, i) => i) : [dims].flat()).map((d) => axis(x, d))),
    expand: (x, sizes) => taken(x, sized(x, sizes)),
    repeat: (x, times) => {
      let r = tensor([...new Array(times.length - x.s.length).fill(1), ...x.s], x.d);
      times.forEach((n, dim) => { r = n === 1 ? r : cat(new Array(n).fill(r), dim); });
      return r;
    },
    full, scalar_tensor: (value, options) => full([], value, options),
    full_like: (x, value, { dtype } = {}) => {
      const r = made(x.s, dtype ? TYPES[dtype] : x.d.constructor);
      r.d.fill(value);
      return r;
    },
    arange: (...given) => {
      const { dtype } = typeof given.at(-1) === "object" ? given.pop() : {};
      const [start, end, step = 1] = given.length === 1 ? [0, given[0]] : given;
      const type = dtype ? TYPES[dtype] : given.every(Number.isInteger) ? Float64Array : Float32Array;
      return tensor([Math.ceil((end - start) / step)], type.from({ length: Math.ceil((end - start) / step) }, (_, i) => start + i * step));
    },
    constant_pad_nd: pad, sym_size: (x, dim) => x.s[axis(x, dim)], to_copy: cast,
    alias: (x) => x, clone: (x) => x, lift_fresh_copy: (x) => x, copy: (x, y) => taken(cast(y, {}), x.s),
  };

  // What depends on the token is computed anew; what does not, once.
  class Graph {
    constructor({ first, last, takes, nodes, gives }, tensors) {
      Object.assign(this, { first, last, takes, gives });
      const moving = takes.map((name) => name === "ids" || name.startsWith("kept/"));
      const moves = (x) => Array.isArray(x) ? x.some(moves) : x !== null && typeof x === "object" ? moving[x.v] : false;
      this.values = takes.map((name) => tensors[name]);
      this.inputs = takes.map((name, place) => [name, place]).filter((_, place) => moving[place]);
      this.nodes = [];
      for (const [name, args, keywords] of nodes) {
        const operation = OPERATIONS[name];
        if (!operation) throw new Error(`no operation ${name}`);
        const place = this.values.length, names = Object.keys(keywords);
        const node = { operation, args, keywords: names.length ? keywords : null, place };
        this.values.push(undefined);
        moving.push(moves(args) || moves(Object.values(keywords)));
        if (moving[place]) this.nodes.push(node);
        else this.compute(node);
      }
    }

    read(x) {
      if (x === "inf" || x === "-inf") return x === "inf" ? Infinity : -Infinity;
      if (Array.isArray(x)) return x.map((each) => this.read(each));
      return x !== null && typeof x === "object" ? this.values[x.v] : x;
    }

    compute({ operation, args, keywords, place }) {
      const given = args.map((each) => this.read(each));
      if (keywords) given.push(Object.fromEntries(Object.entries(keywords).map(([name, x]) => [name, this.read(x)])));
      this.values[place] = operation(...given);
    }

    run(ids, kept) {
      for (const [name, place] of this.inputs) this.values[place] = name === "ids" ? ids : kept[Number(name.slice(5))];
      for (const node of this.nodes) this.compute(node);
      const [logits, ...rest] = this.gives.map((place) => this.values[place]);
      return [logits.d, rest];
    }
  }

  class Model {
    constructor(graphs, tensors, window, keptSizes) {
      this.graphs = graphs.map((each) => new Graph(each, tensors));
      this.window = window;
      this.nothing = keptSizes.map(([heads, width]) => tensor([heads, 0, width], new Float32Array(0)));
      this.restart();
    }

    restart() {
      this.ids = [];
      this.kept = this.nothing;
    }

    // The logits of what follows one more token. A full window begins again with its second half.
    next(id) {
      if (this.ids.length === this.window) {
        const again = this.ids.slice(this.window - Math.floor(this.window / 2));
        this.restart();
        for (const each of again) this.next(each);
      }
      this.ids.push(id);
      const n = this.ids.length, graph = this.graphs.find(({ first, last }) => first <= n && n <= last);
      const [logits, kept] = graph.run(tensor([1, n], Float64Array.from(this.ids)), this.kept);
      this.kept = kept;
      return logits;
    }
  }

  // Natural logarithms of the probabilities of logits.
  function logProbabilities(logits) {
    let highest = -Infinity, all = 0;
    for (const x of logits) highest = Math.max(highest, x);
    for (const x of logits) all += Math.exp(x - highest);
    return logits.map((x) => x - highest - Math.log(all));
  }

  // The token that `draw`, from 0 to 1, picks among the topK likeliest (0: all).
  function choose(logits, temperature, topK, draw) {
    if (temperature === 0) return logits.reduce((best, x, i) => (x > logits[best] ? i : best), 0);
    const order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a]).slice(0, topK || undefined);
    const weights = order.map((i) => Math.exp((logits[i] - logits[order[0]]) / temperature));
    let left = draw * weights.reduce((a, b) => a + b);
    for (let i = 0; i < order.length; i++) if ((left -= weights[i]) < 0) return order[i];
    return order.at(-1);
  }

  // Bytes in base64, inflated.
  async function inflated(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // Weights by name. A row says where a tensor's numbers begin and how they are stored; see weights.py.
  function readTensors(rows, bytes) {
    const tensors = {};
    const read = (type, start, n) => new type(bytes.slice(start, start + n * type.BYTES_PER_ELEMENT).buffer);
    for (const { name, sizes, kind, start } of rows) {
      const n = count(sizes);
      if (kind !== "codes") {
        tensors[name] = tensor(sizes, Float32Array.from(read({ float32: Float32Array, int64: BigInt64Array }[kind] ?? Float32Array, start, n), Number));
        if (kind === "int64") tensors[name].d = Float64Array.from(tensors[name].d);
        continue;
      }
      const columns = sizes.at(-1), rows_ = n / columns, d = new Float32Array(n);
      const codes = read(Int8Array, start, n), carries = read(Int8Array, start + n, n);
      const down = read(Float32Array, start + 2 * n, rows_), across = read(Float32Array, start + 2 * n + 4 * rows_, columns);
      for (let r = 0, i = 0; r < rows_; r++) for (let c = 0; c < columns; c++, i++) d[i] = (codes[i] + 256 * carries[i]) * Math.fround(down[r] * across[c]);
      tensors[name] = tensor(sizes, d);
    }
    return tensors;
  }

  return { Model, choose, inflated, readTensors, logProbabilities, OPERATIONS };
})();
