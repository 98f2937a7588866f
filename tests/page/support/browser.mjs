// Headless Chromium, and what fails every test: a console error, a violation of the content security policy,
// a request to another host.
import assert from "node:assert/strict";
import { AxeBuilder } from "@axe-core/playwright";
import { chromium } from "playwright-core";

const ARGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

export function launch() {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ARGS });
}

// A tab that is signed in with the API's token. `at` is where the page is, if not at the service itself.
export async function open(browser, service, { at = service.base, password = service.token, signedIn = true, ...options } = {}) {
  const origin = new URL(at).origin;
  const context = await browser.newContext({
    locale: "en-GB",
    timezoneId: "Europe/Berlin",
    ...(signedIn ? { httpCredentials: { username: "operator", password, origin } } : {}),
    ...options,
  });
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  const faults = [];
  // While a service is stopped, and for pages with an error, the browser's own lines are expected.
  page.expected = [];
  context.on("request", (request) => {
    if (!request.url().startsWith("about:") && new URL(request.url()).origin !== origin) faults.push(`a request to ${request.url()}`);
  });
  page.on("console", (message) => {
    const text = message.text();
    if (["error", "warning"].includes(message.type()) && !page.expected.some((it) => it.test(text))) faults.push(`the console: ${text}`);
  });
  page.on("pageerror", (error) => faults.push(`the script: ${error}`));
  page.on("dialog", (dialog) => { faults.push(`a dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.home = `${at}/ui/`;
  page.visit = (view = "") => page.goto(page.home + view);
  // To be called at the end of each test.
  page.end = async () => {
    await context.close();
    assert.deepEqual(faults, []);
  };
  return page;
}

// No finding of axe that is serious or critical.
export async function accessible(page, where) {
  const { violations } = await new AxeBuilder({ page }).setLegacyMode(true).analyze();
  const found = violations.filter((it) => ["serious", "critical"].includes(it.impact));
  const told = found.map((it) => `${it.id} (${it.impact}): ${it.nodes.map((node) => node.html).join(" | ")}`);
  assert.deepEqual(told, [], where);
}

// How many pixels the document is wider than the window.
export function overflow(page) {
  return page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
}
