// Asks the scripts of a page what its model says: {texts, ids} on stdin, JSON on stdout.
const fs = require("fs");
const page = fs.readFileSync(process.argv[2], "utf8");
const held = (id) => page.match(new RegExp(`<script type="[^"]*" id="${id}">([\\s\\S]*?)</script>`))[1];
const code = [...page.matchAll(/<script>\n([\s\S]*?)<\/script>/g)].map((found) => found[1]).join("\n");
const { opened, bitgolf, Reader } = new Function(`${code}\nreturn { opened, bitgolf, Reader };`)();
const asked = JSON.parse(fs.readFileSync(0, "utf8"));
opened(JSON.parse(held("model")), held("weights").trim()).then(({ model, tokenizer }) => {
  const texts = asked.texts.map((text) => tokenizer.encode(text));
  const reader = new Reader(tokenizer);
  console.log(JSON.stringify({
    operations: Object.keys(bitgolf.OPERATIONS),
    texts,
    back: texts.map((ids) => new TextDecoder().decode(tokenizer.decode(ids))),
    pieces: texts[0].map((id) => reader.add(id, 1)).filter((found) => found),
    logits: asked.ids.map((id) => Array.from(model.next(id))),
    greedy: bitgolf.choose([1, 3, 2], 0, 0, 0.9),
    drawn: [0, 0.5, 0.999].map((draw) => bitgolf.choose([0, 9, 9.5, 1], 1, 2, draw)),
  }));
});
