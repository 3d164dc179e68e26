// Uses the page as a reader does, and leaves what it saw in the page.
(async () => {
  const at = (id) => document.getElementById(id);
  const until = async (done) => {
    while (!done()) await new Promise((next) => setTimeout(next, 20));
  };
  const { model } = await opened(JSON.parse(at("model").textContent), at("weights").textContent.trim());
  const logits = IDS.map((id) => Array.from(model.next(id)));
  await until(() => !at("write").disabled);
  at("prompt").value = "the people";
  at("length").value = 12;
  at("temperature").value = 0;
  at("write").click();
  await until(() => at("status").textContent.startsWith("Written"));
  // Who types and writes at once, by the keyboard, is not stopped by the measuring of what was typed.
  const [setLater, clearLater] = [window.setTimeout, window.clearTimeout];
  let later = null;
  window.setTimeout = (task) => { later = task; return 1; };
  window.clearTimeout = () => { later = null; };
  at("prompt").dispatchEvent(new Event("input"));
  const measures = later !== null;
  at("prompt").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", ctrlKey: true }));
  const quick = measures && later === null;
  [window.setTimeout, window.clearTimeout] = [setLater, clearLater];
  await until(() => at("status").textContent.startsWith("Written"));
  const said = {
    quick,
    logits,
    bpb: at("bpb").textContent,
    text: at("text").textContent,
    own: document.querySelectorAll("#text .own").length,
  };
  const shown = document.createElement("pre");
  shown.id = "said";
  shown.textContent = JSON.stringify(said);
  document.body.replaceChildren(shown);
})();
