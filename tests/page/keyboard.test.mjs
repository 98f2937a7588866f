// Everything by the keyboard alone.
import assert from "node:assert/strict";
import { test } from "node:test";
import { open } from "./support/browser.mjs";
import { scene } from "./support/scene.mjs";
import { closed, Receiver } from "./support/service.mjs";

const it = scene(prepare);
let dead, failed;
async function prepare() {
  dead = await closed();
  await it.service.waitForRetry(await it.service.accept(`${dead}/`, { jobId: "4711" }));
  const bad = await Receiver.start([410, "gone"]);
  it.ending.push(() => bad.end());
  failed = await it.service.accept(bad.url(), { jobId: "4712" });
  await it.service.waitFor(failed, "failed");
}

// Presses Tab until the focus is on what a selector names.
async function tabTo(page, selector) {
  for (let presses = 0; presses < 80; presses += 1) {
    await page.keyboard.press("Tab");
    if (await page.evaluate((selector) => document.activeElement.matches(selector), selector)) {
      const seen = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle !== "none");
      assert.ok(seen, `the focus on ${selector} is to be seen`);
      return;
    }
  }
  throw new Error(`Tab does not lead to ${selector}`);
}

test("the first Tab leads to the content", async () => {
  const page = await open(it.browser, it.service);
  await page.visit();
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "content");
  await page.end();
});

test("the shortcuts lead to the views, to the search, to the theme and to their list", async () => {
  const page = await open(it.browser, it.service, { colorScheme: "light" });
  await page.visit();
  for (const [key, view] of [["c", "callbacks"], ["d", "destinations"], ["o", ""]]) {
    await page.keyboard.press("g");
    await page.keyboard.press(key);
    await page.waitForURL(page.home + view);
    await page.waitForLoadState();
  }
  await page.keyboard.press("?");
  assert.ok(await page.locator("#shortcuts").isVisible());
  await page.keyboard.press("?");
  assert.ok(await page.locator("#shortcuts").isHidden());
  await page.keyboard.press("t");
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
  await page.keyboard.press("t");
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "light");
  await page.keyboard.press("/");
  // In a field, the keys are text.
  await page.keyboard.type("gc?t/");
  assert.equal(await page.locator("input[type=search]").inputValue(), "gc?t/");
  assert.equal(page.url(), page.home);
  await page.end();
});

test("a job is found, ticked and cancelled without a mouse", async () => {
  const page = await open(it.browser, it.service);
  await page.visit();
  await page.keyboard.press("/");
  await page.keyboard.type("4711");
  await page.keyboard.press("Enter");
  await page.waitForURL(/callbacks\?jobId=4711/);
  await tabTo(page, 'input[name="id"]');
  await page.keyboard.press("Space");
  await tabTo(page, "button.danger");
  await page.keyboard.press("Enter");
  await page.getByText("1 callback matches").waitFor();
  // What cannot be undone has to be chosen.
  assert.equal(await page.locator("main button:focus").count(), 0);
  await tabTo(page, "main button.danger");
  await page.keyboard.press("Enter");
  // One callback leads to its view.
  await page.getByText("Cancelled: 1 of 1").waitFor();
  await page.waitForURL(/callbacks\/\w+$/);
  assert.equal(await page.locator(".head .state").innerText(), "Failed");
  await page.end();
});

test("a destination is paused and resumed without a mouse", async () => {
  const page = await open(it.browser, it.service);
  await page.visit(`destinations?host=${encodeURIComponent(dead.slice("http://".length))}`);
  await tabTo(page, 'button[formaction$="pause"]');
  await page.keyboard.press("Enter");
  await page.getByText("Paused. Events").waitFor();
  await tabTo(page, 'button[formaction$="resume"]');
  await page.keyboard.press("Space");
  await page.getByText("Resumed.").waitFor();
  await page.end();
});

test("the response of an attempt and the curl command open without a mouse", async () => {
  const page = await open(it.browser, it.service, { permissions: ["clipboard-read", "clipboard-write"] });
  await page.visit(`callbacks/${failed}`);
  await tabTo(page, ".timeline summary");
  await page.keyboard.press("Enter");
  assert.ok(await page.getByText("gone", { exact: true }).isVisible());
  await tabTo(page, "section:last-of-type summary");
  await page.keyboard.press("Enter");
  assert.match(await page.locator("#curl").innerText(), /^curl -X PUT 'http:\/\/127\.0\.0\.1:\d+\/' /);
  await tabTo(page, "button.copy");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Copied" }).waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), await page.locator("#curl").innerText());
  await page.end();
});
