"use strict";

// Titles are data of whoever made the catalogue: they are set as text, never as HTML.

const WAIT = 150; // milliseconds without a key before a search begins

const part = (id) => document.getElementById(id);
const session = [];
let before = new Set();
let asked = 0;
let searched = 0;

function say(text, wrong = false) {
  part("status").textContent = text;
  part("status").classList.toggle("error", wrong);
}

async function ask(path, body) {
  const post = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, body ? post : {});
  const found = await response.json();
  if (!response.ok) throw new Error(found.error);
  return found;
}

function entry(title, press, { score, isNew, label } = {}) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = title.length > 300 ? `${title.slice(0, 300)} ...` : title;
  if (label) button.setAttribute("aria-label", label);
  if (isNew) button.classList.add("new");
  if (score !== undefined) {
    const shown = document.createElement("span");
    shown.className = "score";
    shown.textContent = score.toFixed(2);
    button.append(shown);
  }
  button.addEventListener("click", press);
  const line = document.createElement("li");
  line.append(button);
  return line;
}

function add(item) {
  session.push(item);
  refresh();
}

function showSession() {
  part("session").replaceChildren(...session.map((item, place) => entry(item.title, () => {
    session.splice(place, 1);
    refresh();
  }, { label: `Take out ${item.title}` })));
  part("empty").hidden = session.length > 0;
  part("clear").hidden = session.length === 0;
}

const SOURCES = {
  cache: "What the LLM said about this session.",
  items: "What the LLM said about the last item.",
  nearest: "What the LLM said about the most similar known session.",
  predictor: "Predicted by the model itself from the clicks.",
  none: "None are known for this session; the model goes by the clicks alone.",
};

function paragraph(text, strong = "") {
  const line = document.createElement("p");
  if (strong) {
    const name = document.createElement("strong");
    name.textContent = `${strong}: `;
    line.append(name);
  }
  line.append(text);
  return line;
}

function showIntents(intents) {
  if (!intents) {
    part("intents").replaceChildren(paragraph("This model takes none."));
    return;
  }
  const lines = [paragraph(SOURCES[intents.source] || intents.source)];
  if (intents.source === "nearest") lines.push(paragraph(intents.session.join(" · "), "Known session"));
  for (const intent of intents.perspectives) {
    const items = intent.items.map((item) => `${item.title} (${item.weight.toFixed(2)})`).join(" · ");
    lines.push(paragraph([intent.answer && `“${intent.answer}”`, items].filter(Boolean).join(" → "), intent.perspective));
  }
  part("intents").replaceChildren(...lines);
}

function showList(items) {
  part("list").replaceChildren(...items.map((item) => entry(item.title, () => add(item), {
    score: item.score, isNew: before.size > 0 && !before.has(item.id),
  })));
  const fresh = items.filter((item) => !before.has(item.id)).length;
  say(before.size ? `${fresh} of ${items.length} recommendations are new.` : `${items.length} recommendations.`);
  before = new Set(items.map((item) => item.id));
}

async function refresh() {
  showSession();
  const turn = ++asked;
  if (!session.length) {
    before = new Set();
    part("list").replaceChildren();
    part("intents").replaceChildren(paragraph("Appear with the first item."));
    say("");
    return;
  }
  try {
    const found = await ask("recommend", { session: session.map((item) => item.id), explain: true });
    if (turn !== asked) return; // a later click has been answered, or will be
    showIntents(found.intents);
    showList(found.items);
  } catch (error) {
    if (turn === asked) say(error.message, true);
  }
}

async function search() {
  const turn = ++searched;
  try {
    const found = await ask(`items?search=${encodeURIComponent(part("find").value.trim())}`);
    if (turn !== searched) return;
    part("found").replaceChildren(...found.items.map((item) => entry(item.title, () => add(item))));
    if (!found.items.length) say("No title has this in it.");
  } catch (error) {
    if (turn === searched) say(error.message, true);
  }
}

let timer;
part("find").addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(search, WAIT);
});
part("clear").addEventListener("click", () => {
  session.length = 0;
  refresh();
  part("find").focus();
});
search();
