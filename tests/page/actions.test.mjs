// Every action, by the mouse, with the script and without it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { open } from "./support/browser.mjs";
import { scene } from "./support/scene.mjs";
import { closed, Receiver } from "./support/service.mjs";

const it = scene();

// A receiver that this service has not met, so that no test disturbs another.
async function receiver(answer) {
  const started = await Receiver.start(answer);
  it.ending.push(() => started.end());
  return started;
}

// Callbacks that this receiver has refused for good.
async function refusedBy(bad, count) {
  const ids = [];
  for (let job = 1; job <= count; job += 1) ids.push(await it.service.accept(bad.url(), { jobId: `${bad.origin.split(":")[2]}-${job}` }));
  for (const id of ids) await it.service.waitFor(id, "failed");
  return ids;
}

// Callbacks for a host that is down, which are tried again much later.
async function postponed(count) {
  const dead = await closed();
  const ids = [];
  for (let job = 1; job <= count; job += 1) ids.push(await it.service.accept(`${dead}/`, { jobId: `${dead.split(":")[2]}-${job}` }));
  for (const id of ids) await it.service.waitForRetry(id);
  return { dead, ids };
}

const states = (ids) => Promise.all(ids.map(async (id) => (await it.service.callback(id)).state));
const of = (origin, state) => `callbacks?state=${state}&destination=${encodeURIComponent(origin)}`;

for (const javaScriptEnabled of [true, false]) {
  const how = javaScriptEnabled ? "with the script" : "without the script";

  test(`all that a filter matches is sent again, after the count and a confirmation, ${how}`, async () => {
    const bad = await receiver(410);
    const ids = await refusedBy(bad, 3);
    bad.answer = 200;
    const page = await open(it.browser, it.service, { javaScriptEnabled });
    await page.visit(of(bad.origin, "failed"));
    assert.equal(await page.locator("tbody tr").count(), 3);
    await page.getByText("3 callbacks match").waitFor();
    await page.getByLabel("all 3 that match").check();
    await page.getByRole("button", { name: "Send again" }).click();
    await page.getByRole("button", { name: /^Yes,/ }).waitFor();
    assert.deepEqual(await states(ids), ["failed", "failed", "failed"], "nothing is done before the confirmation");
    await page.getByRole("button", { name: /^Yes,/ }).click();
    await page.getByText("To be sent again: 3 of 3").waitFor();
    for (const id of ids) await it.service.waitFor(id, "delivered");
    await page.end();
  });

  test(`only the ticked callbacks are cancelled, ${how}`, async () => {
    const { dead, ids } = await postponed(3);
    const page = await open(it.browser, it.service, { javaScriptEnabled });
    await page.visit(of(dead, "pending"));
    for (const id of ids.slice(0, 2)) await page.locator(`input[value="${id}"]`).check();
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.getByText("2 callbacks match").waitFor();
    const port = dead.split(":")[2];
    assert.deepEqual((await page.locator("tbody a").allInnerTexts()).sort(), [`${port}-1`, `${port}-2`], "what was ticked is named");
    assert.equal(await page.locator("tbody td", { hasText: dead }).count(), 2);
    await page.getByRole("button", { name: /^Yes,/ }).click();
    await page.getByText("Cancelled: 2 of 2").waitFor();
    assert.deepEqual(await states(ids), ["failed", "failed", "pending"]);
    await page.end();
  });

  test(`all that a filter matches is tried now, ${how}`, async () => {
    const { dead, ids } = await postponed(2);
    const attempts = async () => Promise.all(ids.map(async (id) => (await it.service.callback(id)).attemptCount));
    const before = await attempts();
    const page = await open(it.browser, it.service, { javaScriptEnabled });
    await page.visit(of(dead, "pending"));
    await page.getByLabel("all 2 that match").check();
    await page.getByRole("button", { name: "Try now" }).click();
    await page.getByRole("button", { name: /^Yes,/ }).click();
    await page.getByText("Due now: 2 of 2").waitFor();
    for (const id of ids) await it.service.waitForRetry(id);
    assert.notDeepEqual(await attempts(), before);
    await page.end();
  });

  test(`one callback is tried now, cancelled and sent again in its view, ${how}`, async () => {
    const flaky = await receiver(503);
    const id = await it.service.accept(flaky.url("/one"), { jobId: "one" });
    await it.service.waitForRetry(id);
    const page = await open(it.browser, it.service, { javaScriptEnabled });
    await page.visit(`callbacks/${id}`);
    await page.getByRole("button", { name: "Try now" }).click();
    await page.getByText("Attempt 1").waitFor();
    const { attemptCount } = await it.service.callback(id);
    assert.ok(attemptCount >= 1 && flaky.puts.every((put) => put.path === "/one"));
    await it.service.waitForRetry(id);
    await page.getByRole("button", { name: "Cancel" }).click();
    assert.equal((await it.service.callback(id)).state, "pending", "it asks first");
    await page.getByRole("button", { name: /^Yes,/ }).click();
    await page.getByText("Cancelled: 1 of 1").waitFor();
    assert.equal((await it.service.callback(id)).state, "failed");
    flaky.answer = 200;
    await page.getByRole("button", { name: "Send again" }).click();
    await page.getByText("To be sent again: 1 of 1").waitFor();
    await it.service.waitFor(id, "delivered");
    // With the script, the address is that of the view alone.
    await page.waitForURL((url) => url.pathname.endsWith(id) && (url.search === "") === javaScriptEnabled);
    await page.reload();
    assert.equal(await page.getByText("To be sent again: 1 of 1").count(), javaScriptEnabled ? 0 : 1);
    assert.equal(await page.locator(".head .state").innerText(), "Delivered");
    assert.equal(await page.getByRole("button", { name: /again|now|Cancel/ }).count(), 0, "nothing is left to do");
    await page.end();
  });

  test(`a destination is paused, resumed and tried now, ${how}`, async () => {
    const slow = await receiver(503);
    const id = await it.service.accept(slow.url(), { jobId: slow.origin.split(":")[2] });
    await it.service.waitForRetry(id);
    const page = await open(it.browser, it.service, { javaScriptEnabled });
    await page.visit("destinations");
    const row = page.locator("tr", { hasText: slow.origin });
    await row.getByRole("button", { name: "Pause" }).click();
    await page.getByText("Paused. Events are still accepted").waitFor();
    assert.equal((await it.service.destination(slow.origin)).state, "paused");
    await row.getByText("paused", { exact: true }).waitFor();
    slow.answer = 200;
    const held = await it.service.accept(slow.url(), { jobId: `${slow.origin.split(":")[2]}-b` });
    await row.getByRole("button", { name: "Resume" }).click();
    await page.getByText("Resumed.").waitFor();
    await it.service.waitFor(held, "delivered");
    assert.equal((await it.service.callback(id)).state, "pending");
    await row.getByRole("button", { name: "Try now" }).click();
    await page.getByText("Due now: 1").waitFor();
    await it.service.waitFor(id, "delivered");
    await page.end();
  });
}

test("without a tick and without a choice of all, nothing is asked or done", async () => {
  const { dead, ids } = await postponed(1);
  const page = await open(it.browser, it.service);
  page.expected.push(/status of 400/);
  await page.visit(of(dead, "pending"));
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.getByText("No callback was selected, and nothing was done.").waitFor();
  assert.deepEqual(await states(ids), ["pending"]);
  await page.end();
});

test("the actions are in sight wherever a long list is scrolled to", async () => {
  const dead = await closed();
  await it.service.api("POST", "/v1/destinations/pause", { destination: dead });
  for (let job = 0; job < 40; job += 1) await it.service.accept(`${dead}/`, { jobId: `long-${job}` });
  for (const width of [360, 1440]) {
    const page = await open(it.browser, it.service, { viewport: { width, height: 700 } });
    await page.visit(of(dead, "pending"));
    const button = page.getByRole("button", { name: "Cancel" });
    const seen = () => button.evaluate((it) => { const box = it.getBoundingClientRect(); return box.top >= 0 && box.bottom <= innerHeight; });
    await page.locator("tbody tr").nth(5).scrollIntoViewIfNeeded();
    assert.ok(await seen(), `in the middle, ${width} pixels`);
    await page.evaluate(() => scrollTo(0, document.body.scrollHeight));
    assert.ok(await seen(), `at the end, ${width} pixels`);
    await page.end();
  }
});

test("a filter that cannot be read is corrected in its form", async () => {
  const page = await open(it.browser, it.service);
  page.expected.push(/status of 400/);
  await page.visit("callbacks?jobId=4711");
  await page.getByLabel("Ended since").fill("last night");
  await page.getByRole("button", { name: "Filter" }).click();
  await page.getByRole("alert").waitFor();
  assert.match(await page.getByRole("alert").innerText(), /Ended since: expected a time such as/);
  assert.equal(await page.locator('[aria-invalid="true"]').inputValue(), "last night");
  await page.locator('[aria-invalid="true"]').fill("2026-01-31 08:00");
  await page.getByRole("button", { name: "Filter" }).click();
  await page.waitForURL(/jobId=4711.*endedSince=2026-01-31/);
  await page.getByText("No callback matches.").waitFor();
  await page.end();
});

test("the box in the head of the table ticks every row and clears them", async () => {
  const { dead } = await postponed(3);
  const page = await open(it.browser, it.service);
  await page.visit(of(dead, "pending"));
  await page.getByLabel("Select all on this page").check();
  assert.equal(await page.locator("tbody input:checked").count(), 3);
  await page.getByLabel("Select all on this page").uncheck();
  assert.equal(await page.locator("tbody input:checked").count(), 0);
  await page.end();
});

test("more callbacks than one step are done by the script alone", async () => {
  const { service } = it;
  const dead = await closed();
  await service.api("POST", "/v1/destinations/pause", { destination: dead });
  const lines = Array.from({ length: 5100 }, (_, job) => JSON.stringify({
    event: "job_sending", jobId: `many-${job}`, jobIdFs: "many", parameters: { DpfControlCallbackUrl: `${dead}/` },
  }));
  const headers = { authorization: `Bearer ${service.token}`, "content-type": "application/x-ndjson" };
  const response = await fetch(`${service.base}/v1/events`, { method: "POST", headers, body: lines.join("\n") });
  await response.text();
  const page = await open(it.browser, service);
  await page.visit("actions/cancel?jobIdFs=many");
  await page.getByText("5,100 callbacks match").waitFor();
  await page.getByRole("button", { name: /^Yes,/ }).click();
  await page.getByText("Cancelled: 5,100 of 5,100").waitFor({ timeout: 60_000 });
  await page.end();
});
