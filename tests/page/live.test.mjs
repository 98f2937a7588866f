// The script: it refreshes views without disturbing the user, and reports when it cannot.
import assert from "node:assert/strict";
import { test } from "node:test";
import { open } from "./support/browser.mjs";
import { scene } from "./support/scene.mjs";
import { closed, Receiver } from "./support/service.mjs";
import { eventually } from "./support/wait.mjs";

const it = scene(prepare);
let dead, pending, failed;
async function prepare() {
  dead = await closed();
  pending = await it.service.accept(`${dead}/`, { jobId: "waits" });
  await it.service.waitForRetry(pending);
  const bad = await Receiver.start([410, "gone for good"]);
  it.ending.push(() => bad.end());
  failed = await it.service.accept(bad.url(), { jobId: "gone" });
  await it.service.waitFor(failed, "failed");
}

// Waits until the page has refreshed this many times.
async function refreshed(page, times = 1) {
  for (let time = 0; time < times; time += 1) {
    const response = await page.waitForResponse((it) => it.url() === page.url() && it.request().resourceType() === "fetch");
    await response.finished();
  }
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve))));
}

test("a new callback appears by itself, and the box for all rows stays", async () => {
  const page = await open(it.browser, it.service);
  await page.visit("callbacks");
  await it.service.accept(`${dead}/`, { jobId: "appears" });
  await page.getByRole("link", { name: "appears" }).waitFor();
  await refreshed(page);
  assert.ok(await page.getByLabel("Select all on this page").isVisible());
  await page.getByLabel("Select all on this page").check();
  assert.ok(await page.locator("tbody input:checked").count() > 1);
  await page.end();
});

test("a ticked row, an open response and a selection stay, while other regions are updated", async () => {
  const rows = await open(it.browser, it.service);
  await rows.visit("callbacks");
  await rows.locator(`input[value="${pending}"]`).check();
  await rows.locator("h1").click();
  const one = await open(it.browser, it.service);
  await one.visit(`callbacks/${failed}`);
  await one.getByText("Response", { exact: true }).click();
  await one.locator("h1").click();
  const overview = await open(it.browser, it.service);
  await overview.visit();
  await overview.locator('[data-live="failed"] h2').evaluate((heading) => getSelection().selectAllChildren(heading));
  const cards = overview.locator(".cards a").first();
  const before = await cards.innerText();
  await it.service.accept(`${dead}/`, { jobId: "another" });
  await eventually("the overview counts it", async () => (await cards.innerText()) !== before);
  assert.equal(await overview.evaluate(() => getSelection().toString()), "Last failed");
  await overview.end();
  await refreshed(rows);
  assert.ok(await rows.locator(`input[value="${pending}"]`).isChecked());
  assert.equal(await rows.getByRole("link", { name: "another" }).count(), 0, "the list waits");
  await rows.locator(`input[value="${pending}"]`).uncheck();
  await rows.locator("h1").click();
  await rows.getByRole("link", { name: "another" }).waitFor();
  await rows.end();
  await refreshed(one);
  assert.ok(await one.getByText("gone for good").first().isVisible());
  await one.end();
});

test("the page says when it is not up to date, and when it is again", async () => {
  const page = await open(it.browser, it.service);
  await page.visit();
  assert.ok(await page.locator("#stale").isHidden());
  page.expected.push(/ERR_ABORTED|ERR_FAILED|status of 503/);
  await page.route("**/ui/", (route) => route.abort());
  await page.locator("#stale").waitFor();
  await page.unroute("**/ui/");
  await page.locator("#stale").waitFor({ state: "hidden" });
  // And so it does when the service is gone.
  page.expected.push(/ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE/);
  await it.service.stop();
  await page.locator("#stale").waitFor();
  assert.match(await page.locator("#stale").innerText(), /Not up to date/);
  await page.end();
  await it.service.serve();
});

test("theme and times are kept over a reload", async () => {
  const page = await open(it.browser, it.service, { colorScheme: "light" });
  await page.visit(`callbacks/${failed}`);
  const back = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const time = page.locator("time").first();
  assert.equal(await back(), "rgb(255, 255, 255)");
  const LOCAL = /(now|ago|in \d+ \w+), .*\d+:\d\d/;
  assert.match(await time.innerText(), LOCAL);
  const theme = page.getByRole("button", { name: "Colours" });
  const times = page.getByRole("button", { name: "Times" });
  const modes = async () => [await theme.innerText(), await times.innerText()];
  assert.deepEqual(await modes(), ["Colours: as the system", "Times: local"]);
  await theme.click();
  await times.click();
  assert.deepEqual(await modes(), ["Colours: dark", "Times: UTC"]);
  assert.match(await time.innerText(), /^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
  await page.reload();
  assert.equal(await back(), "rgb(13, 17, 23)");
  assert.match(await time.innerText(), /^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
  assert.deepEqual(await modes(), ["Colours: dark", "Times: UTC"]);
  await theme.click();
  await times.click();
  assert.deepEqual(await modes(), ["Colours: light", "Times: local"]);
  await theme.click();
  assert.deepEqual(await modes(), ["Colours: as the system", "Times: local"]);
  await page.reload();
  assert.equal(await back(), "rgb(255, 255, 255)");
  await eventually("the times are local", async () => LOCAL.test(await time.innerText()));
  assert.match(await time.getAttribute("title"), /(CET|CEST|GMT\+\d) = \d{4}-.*Z$/, "with the offset and UTC");
  await page.end();
});

test("a time in UTC is on one line in every view, however narrow", async () => {
  for (const width of [360, 1440]) {
    const page = await open(it.browser, it.service, { viewport: { width, height: 800 } });
    await page.addInitScript(() => localStorage.setItem("times", "utc"));
    for (const view of ["", "callbacks", "destinations", `callbacks/${failed}`, `callbacks/${pending}`]) {
      await page.visit(view);
      const broken = await page.locator("time").evaluateAll((all) => all.filter((it) => it.getClientRects().length > 1 || it.offsetHeight > 30).length);
      assert.equal(broken, 0, `${view}, ${width} pixels`);
      assert.ok(await page.locator("time").count() > 0, view);
    }
    await page.end();
  }
});
