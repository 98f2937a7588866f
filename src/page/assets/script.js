// What the page does beyond plain links and forms: it refreshes its regions, shows times as one likes them,
// remembers theme and times, selects rows, and signs in with a one-time link. Everything works without it.
"use strict";

const REFRESH = 5000;
const root = document.documentElement;
const lang = root.lang;
const stored = {
  get: (name) => { try { return localStorage.getItem(name); } catch { return null; } },
  set: (name, value) => { try { localStorage.setItem(name, value); } catch { /* it is only convenient */ } },
};

// Shows in a button's text which of its modes is chosen.
function showMode(id, mode) {
  const place = document.querySelector(`#${id} span`);
  if (place) place.textContent = place.dataset[mode];
}

// Theme: as the system has it, or as it was chosen.
function theme(value) {
  if (value === "light" || value === "dark") root.dataset.theme = value; else delete root.dataset.theme;
  showMode("theme", root.dataset.theme || "system");
}
theme(stored.get("theme"));
// The system's, the other one, the same as the system's but kept, and again.
function toggleTheme() {
  const [same, other] = matchMedia("(prefers-color-scheme: dark)").matches ? ["dark", "light"] : ["light", "dark"];
  theme({ [other]: same, [same]: "" }[root.dataset.theme] ?? other);
  stored.set("theme", root.dataset.theme || "");
}

// Times: UTC in the markup; shown relative and local, or as they are in the markup.
// The browser's own habits, if they are those of the page's language.
const locale = navigator.languages.find((it) => it.split("-")[0] === lang) || lang;
const relative = new Intl.RelativeTimeFormat(lang, { numeric: "auto" });
const local = new Intl.DateTimeFormat(locale, { dateStyle: "short", timeStyle: "medium" });
const zone = new Intl.DateTimeFormat(locale, { timeStyle: "long", dateStyle: "short" });
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
function ago(seconds) {
  const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) || ["second", 1];
  return relative.format(Math.trunc(seconds / size), unit);
}
let offset = Date.parse(document.body.dataset.now) - Date.now();
function showTimes(within) {
  const utc = stored.get("times") === "utc";
  root.dataset.times = utc ? "utc" : "local";
  showMode("times", root.dataset.times);
  for (const time of within.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    const shown = utc ? time.dateTime.replace(/\.\d+Z$/, "Z") : ago((at - Date.now() - offset) / 1000) + ", " + local.format(at).replaceAll(" ", "\u00a0");
    if (time.textContent !== shown) time.textContent = shown;
    const title = zone.format(at) + " = " + time.dateTime;
    if (time.title !== title) time.title = title;
  }
}
function toggleTimes() {
  stored.set("times", stored.get("times") === "utc" ? "local" : "utc");
  showTimes(document);
}

// Regions are replaced only if the user is not using them.
function isUsed(region) {
  const selection = getSelection();
  const selects = selection && !selection.isCollapsed && region.contains(selection.anchorNode);
  return selects || region.contains(document.activeElement) || region.querySelector(":checked, details[open]");
}
// Controls that need the script are hidden in the markup.
function reveal(within) {
  for (const control of within.querySelectorAll("#theme, #times, #all")) control.hidden = false;
}
let failures = 0;
async function refresh() {
  if (document.hidden || !document.querySelector("[data-live]")) return;
  try {
    const response = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(REFRESH * 2) });
    if (!response.ok) throw new Error(response.statusText);
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    offset = Date.parse(fresh.body.dataset.now) - Date.now();
    for (const region of document.querySelectorAll("[data-live]")) {
      const now = fresh.querySelector(`[data-live="${region.dataset.live}"]`);
      if (!now || isUsed(region)) continue;
      showTimes(now);
      reveal(now);
      if (now.innerHTML !== region.innerHTML) region.replaceChildren(...now.childNodes);
    }
    failures = 0;
  } catch {
    failures += 1;
  }
  document.getElementById("stale").hidden = failures < 2;
  showTimes(document);
}

// What an action did is shown once: neither a reload nor a colleague who gets the address sees it again.
function forgetDone() {
  const url = new URL(location.href);
  if (!url.searchParams.has("done")) return;
  for (const name of ["done", "matched", "changed", "due"]) url.searchParams.delete(name);
  history.replaceState(null, "", url);
}

// Rows: a box for all of them.
function selectAll(all) {
  for (const box of document.querySelectorAll('input[name="id"][type="checkbox"]')) box.checked = all.checked;
}

// Keyboard shortcuts, unless the user is typing.
let went = 0;
function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const link = Date.now() - went < 1500 && document.querySelector(`nav [data-key="${CSS.escape(event.key)}"]`);
  went = event.key === "g" ? Date.now() : 0;
  if (link) link.click();
  else if (event.key === "/") { event.preventDefault(); document.querySelector("input[type=search]").focus(); }
  else if (event.key === "t") toggleTheme();
  else if (event.key === "?") { const help = document.getElementById("shortcuts"); help.hidden = !help.hidden; }
}

// A one-time link: its secret is behind the `#`, and leaves the address bar and the history at once.
async function signIn(place) {
  const secret = location.hash.slice(1);
  history.replaceState(null, "", location.pathname);
  if (!secret) { place.textContent = place.dataset.missing; return; }
  const response = await fetch("sign-in", { method: "POST", body: secret });
  if (!response.ok) { place.textContent = place.dataset.over; return; }
  const request = new XMLHttpRequest();
  // The browser remembers a password that was right, as if it had been typed.
  request.open("GET", "./", true, "operator", await response.text());
  request.onloadend = () => {
    if (request.status === 200) location.replace("./"); else place.textContent = place.dataset.over;
  };
  request.send();
}

document.addEventListener("DOMContentLoaded", () => {
  theme(stored.get("theme"));
  showTimes(document);
  reveal(document);
  forgetDone();
  document.getElementById("theme").addEventListener("click", toggleTheme);
  document.getElementById("times").addEventListener("click", toggleTimes);
  document.addEventListener("change", (event) => { if (event.target.id === "all") selectAll(event.target); });
  document.addEventListener("keydown", key);
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = document.body.dataset.copied;
    });
  }
  const place = document.getElementById("sign-in");
  if (place) signIn(place);
  // More of an action is to be done.
  const more = document.querySelector("form[data-auto]");
  if (more) more.requestSubmit();
  setInterval(refresh, REFRESH);
  document.addEventListener("visibilitychange", refresh);
});
