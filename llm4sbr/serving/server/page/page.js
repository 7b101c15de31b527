"use strict";

// Titles are data of whoever made the catalogue: they are set as text, never as HTML.

const SHOWN = 10;
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
  button.textContent = title;
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

function showIntents(found) {
  const lines = (found.intents || []).map((intent) => {
    const line = document.createElement("p");
    const name = document.createElement("strong");
    name.textContent = `${intent.perspective}: `;
    line.append(name, intent.items.map((item) => item.title).join(" · ") || "none");
    return line;
  });
  if (!lines.length) {
    lines.push(document.createElement("p"));
    lines[0].textContent = found.note || "";
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
    showIntents({ note: "Appear with the first item." });
    say("");
    return;
  }
  try {
    const found = await ask("recommend", { session: session.map((item) => item.id), k: SHOWN });
    if (turn !== asked) return; // a later click has been answered, or will be
    showIntents(found);
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
