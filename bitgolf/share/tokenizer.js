"use strict";
// Text to ids and back, as the tokenizer of the model does it: byte-pair merges, the likeliest pair first.
// pieces: what each id stands for, as strings of one letter a byte; special ids are empty.
class BitgolfTokenizer {
  // kind "bytes": merges over bytes, inside lines; "folded": the same with capitals as operators; "characters":
  // merges over characters, and bytes for what has no piece.
  constructor({ kind, pieces, ranks, bos, byteIds }) {
    Object.assign(this, { kind, bos, byteIds });
    this.pieces = pieces.map((text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)));
    this.ids = new Map();
    this.ranks = ranks;
    this.pieces.forEach((piece, id) => {
      if (ranks[id] !== null) this.ids.set(BitgolfTokenizer.key(piece), id);
    });
  }

  static key(bytes) {
    let text = "";
    for (const byte of bytes) text += String.fromCharCode(byte);
    return text;
  }

  // The ids of a text, without BOS.
  encode(text) {
    if (this.kind === "characters") {
      return text.split(/([\u2581\0]+)/).flatMap((part, i) => i % 2 ? this.asBytes(BitgolfTokenizer.key(new TextEncoder().encode(part)))
        : this.merged(Array.from(part, (letter) => BitgolfTokenizer.key(new TextEncoder().encode(letter)))));
    }
    const plain = BitgolfTokenizer.key(new TextEncoder().encode(text));
    const lines = (this.kind === "folded" ? fold(plain) : plain).match(/[^\n]{1,4096}\n{0,64}|\n{1,64}/g) ?? [];
    return lines.flatMap((line) => this.merged(Array.from(line)));
  }

  asBytes(piece) {
    return Array.from(piece, (letter) => this.byteIds[letter.charCodeAt(0)]);
  }

  // symbols: strings of bytes. Of all neighbours that make a piece, the first of the best rank become one.
  merged(symbols) {
    const n = symbols.length, next = symbols.map((_, i) => i + 1), before = symbols.map((_, i) => i - 1);
    const heap = [], better = (a, b) => a[0] < b[0] || (a[0] === b[0] && a[1] < b[1]);
    const swap = (i, j) => { [heap[i], heap[j]] = [heap[j], heap[i]]; };
    const offer = (left) => {
      const right = next[left];
      if (left < 0 || right >= n) return;
      const id = this.ids.get(symbols[left] + symbols[right]);
      if (id === undefined) return;
      heap.push([this.ranks[id], left, symbols[left].length + symbols[right].length]);
      for (let i = heap.length - 1; i > 0 && better(heap[i], heap[(i - 1) >> 1]); i = (i - 1) >> 1) swap(i, (i - 1) >> 1);
    };
    const taken = () => {
      const top = heap[0], last = heap.pop();
      if (heap.length) {
        heap[0] = last;
        for (let i = 0; ;) {
          let least = i;
          for (const child of [2 * i + 1, 2 * i + 2]) if (child < heap.length && better(heap[child], heap[least])) least = child;
          if (least === i) break;
          swap(i, least);
          i = least;
        }
      }
      return top;
    };
    for (let i = 0; i + 1 < n; i++) offer(i);
    while (heap.length) {
      const [, left, length] = taken(), right = next[left];
      if (symbols[left] === "" || right >= n || symbols[left].length + symbols[right].length !== length) continue;
      symbols[left] += symbols[right];
      symbols[right] = "";
      next[left] = next[right];
      if (next[left] < n) before[next[left]] = left;
      if (before[left] >= 0) offer(before[left]);
      offer(left);
    }
    return symbols.filter((piece) => piece !== "").flatMap((piece) => this.ids.get(piece) ?? this.asBytes(piece));
  }

  // The bytes that ids stand for.
  decode(ids) {
    const parts = ids.map((id) => this.pieces[id] ?? new Uint8Array(0));
    const whole = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
    parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
    if (this.kind !== "folded") return whole;
    return Uint8Array.from(unfold(BitgolfTokenizer.key(whole)), (letter) => letter.charCodeAt(0));
  }
}

// Capitals as operators before small letters, and back; see casing.py.
const fold = (text) => text.replace(/(?<![A-Za-z])(?:([A-Z]{2,})(?![A-Za-z])|([A-Z]))|[A-Z]/g,
  (found, all, first) => (all ? "A" : first ? "T" : "C") + found.toLowerCase());
const unfold = (text) => text.replace(/[TC][a-z]?|A[a-z]*|B/g, (found) => found.slice(1).toUpperCase());
