"use strict";
const LIMIT = 10; // bits at which a token has the full colour
const AT_ONCE = 24; // milliseconds of work before the page may draw
const DELAY = 250; // milliseconds after the last key before a text is measured

// The model and tokenizer that the page holds.
async function opened(held, packed) {
  const tensors = bitgolf.readTensors(held.rows, await bitgolf.inflated(packed));
  const model = new bitgolf.Model(held.graphs, tensors, held.window, held.kept);
  return { model, tokenizer: new BitgolfTokenizer(held.tokenizer) };
}

const breath = () => new Promise((done) => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => { port1.close(); done(); };
  port2.postMessage(0);
});

// Tokens as they come, put together to readable text: what has no letter of its own waits for the next.
class Reader {
  constructor(tokenizer) {
    Object.assign(this, { tokenizer, ids: [], bytes: 0, bits: 0, waiting: 0, text: new TextDecoder() });
  }

  // {text, bits} once there is text, with the bits of all tokens since the last.
  add(id, bits) {
    this.ids.push(id);
    const decoded = this.tokenizer.decode(this.ids), fresh = decoded.subarray(this.bytes);
    this.bytes = decoded.length;
    this.bits += bits;
    this.waiting += bits;
    const text = this.text.decode(fresh, { stream: true });
    if (text === "") return null;
    const found = { text, bits: this.waiting };
    this.waiting = 0;
    return found;
  }
}

async function start() {
  const at = (id) => document.getElementById(id);
  const say = (text) => { at("status").textContent = text; };
  const number = (x, digits) => x.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  let model, tokenizer, turn = 0;
  try {
    ({ model, tokenizer } = await opened(JSON.parse(at("model").textContent), at("weights").textContent.trim()));
  } catch (error) {
    say(`This browser cannot run the model: ${error.message}`);
    return;
  }
  const controls = [at("write"), at("prompt"), at("temperature"), at("topk"), at("length")];

  function draw({ text, bits }, own) {
    const span = document.createElement("span");
    span.textContent = text;
    span.title = `${number(bits, 1)} bits`;
    span.style.setProperty("--share", Math.min(bits / LIMIT, 1).toFixed(3));
    if (own) span.className = "own";
    at("text").append(span);
    return span;
  }

  // The text token by token, in colour; the logits of what follows, or null if something else began.
  async function measured(text, mine) {
    at("text").replaceChildren();
    model.restart();
    const reader = new Reader(tokenizer), costs = [];
    let logits = tokenizer.bos >= 0 ? model.next(tokenizer.bos) : null, last = performance.now();
    for (const id of tokenizer.encode(text)) {
      const bits = logits ? -bitgolf.logProbabilities(logits)[id] / Math.LN2 : 0;
      logits = model.next(id);
      const found = reader.add(id, bits);
      if (found) {
        draw(found, false);
        costs.push(found);
      }
      if (performance.now() - last > AT_ONCE) {
        await breath();
        if (turn !== mine) return null;
        last = performance.now();
      }
    }
    const bytes = new TextEncoder().encode(text).length;
    at("bpb").textContent = bytes ? number(reader.bits / bytes, 3) : "\u2013";
    at("size").textContent = bytes ? `${number(bytes, 0)} bytes, ${number(reader.bits / 8, 0)} as this model would code them` : "Type something.";
    costs.sort((a, b) => b.bits - a.bits);
    at("costly").textContent = costs.slice(0, 5).filter(({ text }) => text.trim())
      .map(({ text, bits }) => `\u201c${text.trim()}\u201d ${number(bits, 1)}`).join(", ") || "\u2013";
    return { logits, reader };
  }

  let timer; // until a text that was typed is measured
  async function write() {
    clearTimeout(timer);
    const mine = ++turn, text = at("prompt").value;
    at("stop").disabled = false;
    at("write").disabled = true;
    say("Writing \u2026");
    try {
      const found = await measured(text, mine);
      if (!found) return;
      let { logits } = found, written = 0;
      if (!logits) {
        say("This tokenizer has no start of a document: type something first.");
        return;
      }
      const { reader } = found, began = performance.now(), tokens = Number(at("length").value);
      let last = began, why = "";
      while (written < tokens) {
        const id = bitgolf.choose(logits, Number(at("temperature").value), Number(at("topk").value), Math.random());
        if (id === tokenizer.bos) {
          why = "; the model ended the document";
          break;
        }
        const bits = -bitgolf.logProbabilities(logits)[id] / Math.LN2, piece = reader.add(id, bits);
        if (piece) draw(piece, true);
        logits = model.next(id);
        written += 1;
        if (performance.now() - last > AT_ONCE) {
          await breath();
          if (turn !== mine) break;
          last = performance.now();
          at("speed").textContent = number(written / (Math.max(last - began, 1) / 1000), 0);
        }
      }
      const seconds = Math.max(performance.now() - began, 1) / 1000;
      if (written) at("speed").textContent = number(written / seconds, 0);
      say(`${turn === mine ? "Written" : "Stopped"}: ${written} tokens in ${number(seconds, 1)} s${why}.`);
    } finally {
      if (turn === mine || at("stop").disabled) at("write").disabled = false;
      if (turn === mine) at("stop").disabled = true;
    }
  }

  function stop() {
    turn += 1;
    at("stop").disabled = true;
    at("write").disabled = false;
    at("write").focus();
  }

  at("prompt").addEventListener("input", () => {
    if (!at("stop").disabled) stop();
    at("prompt").focus();
    clearTimeout(timer);
    timer = setTimeout(() => measured(at("prompt").value, ++turn), DELAY);
  });
  at("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      if (!at("write").disabled) write();
    }
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !at("stop").disabled) stop(); });
  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    write();
  });
  at("stop").addEventListener("click", stop);
  at("temperature").addEventListener("input", () => { at("shown").textContent = number(Number(at("temperature").value), 2); });
  for (const each of controls) each.disabled = false;
  say("Ready. Type, and press Write.");
  await measured(at("prompt").value, ++turn);
}

if (typeof document !== "undefined") start();
