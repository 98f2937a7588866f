// Each view in both themes, in both languages, 360 and 1440 pixels wide: screenshots in target/page, nothing wider
// than the window, and nothing that axe finds serious.
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { accessible, open, overflow } from "./support/browser.mjs";
import { scene } from "./support/scene.mjs";
import { Service, TARGET } from "./support/service.mjs";
import { tryOut } from "./support/try_out.mjs";

const FOLDER = join(TARGET, "page");
const it = scene(prepare);
let found, empty;
async function prepare() {
  mkdirSync(FOLDER, { recursive: true });
  empty = await Service.start();
  it.ending.push(() => empty.end());
  found = await tryOut(it);
  // Names as long as they may come.
  const long = "x".repeat(120);
  await it.service.accept(`${found.dead}/${long}/${long}`, { jobId: `4799-${long}`, jobIdFs: `20160223183418233999-${long}` });
  await it.service.accept("http://a-receiver-with-a-rather-long-name.some.department.example.invalid:8080/jobs", { jobId: "4800" });
  await it.service.api("POST", "/v1/destinations/pause", { destination: found.receiver.origin });
}

const views = () => [
  ["overview", it.service, ""],
  ["empty", empty, ""],
  ["callbacks", it.service, "callbacks"],
  ["filtered", it.service, "callbacks?state=failed&since=2h"],
  ["waiting", it.service, "callbacks?state=waiting"],
  ["nothing", it.service, "callbacks?jobId=none"],
  ["pending", it.service, `callbacks/${found.pending}`],
  ["failed", it.service, `callbacks/${found.failed}`],
  ["delivered", it.service, `callbacks/${found.delivered}`],
  ["destinations", it.service, "destinations"],
  ["confirm", it.service, `actions/cancel?destination=${encodeURIComponent(found.dead)}`],
  ["ticked", it.service, `actions/cancel?scope=ticked&id=${found.pending}&id=${found.failed}`],
  ["invalid", it.service, "callbacks?endedSince=last+night"],
  ["sign-in", it.service, "sign-in"],
  ["not-found", it.service, "nowhere"],
];

for (const colorScheme of ["light", "dark"]) {
  for (const locale of ["en-GB", "de-DE"]) {
    for (const width of [360, 1440]) {
      test(`the views fit and are accessible: ${colorScheme}, ${locale}, ${width} pixels`, async () => {
        const faults = [];
        for (const service of [it.service, empty]) {
          const page = await open(it.browser, service, { colorScheme, locale, viewport: { width, height: 800 } });
          page.expected.push(/status of 40[034]/);
          for (const [name, , view] of views().filter(([, of]) => of === service)) {
            await page.visit(view);
            const lang = locale.slice(0, 2);
            assert.equal(await page.locator("html").getAttribute("lang"), lang);
            await page.screenshot({ path: join(FOLDER, `${name}-${lang}-${colorScheme}-${width}.png`), fullPage: true });
            const over = await overflow(page);
            if (over > 0) faults.push(`${name} is ${over} pixels too wide`);
            await accessible(page, name).catch((error) => faults.push(`${name}: ${error.actual ?? error}`));
          }
          await page.end();
        }
        assert.deepEqual(faults, []);
      });
    }
  }
}

test("the theme that was chosen is as accessible as the system's", async () => {
  for (const [colorScheme, chosen] of [["light", "dark"], ["dark", "light"]]) {
    const page = await open(it.browser, it.service, { colorScheme });
    await page.visit(`callbacks/${found.failed}`);
    await page.keyboard.press("t");
    assert.equal(await page.locator("html").getAttribute("data-theme"), chosen);
    await page.locator("summary").first().click();
    await accessible(page, chosen);
    await page.visit("destinations");
    await accessible(page, chosen);
    await page.end();
  }
});
