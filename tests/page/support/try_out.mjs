// What the README's try-out leads to, some time later: callbacks that were delivered, one that failed, one
// destination that is open, one that is paused.
import { closed, Receiver } from "./service.mjs";
import { eventually } from "./wait.mjs";

const STATES = ["job_sending", "job_sending", "job_finished"];

export async function tryOut(it) {
  const { service } = it;
  const receiver = await Receiver.start(200);
  it.ending.push(() => receiver.end());
  const job = (number, event = {}) => ({
    jobId: String(number), jobIdFs: `2016022318341823${String(number).slice(-2)}`, ...event,
  });
  const ids = {};
  for (let number = 4711; number < 4735; number += 1) {
    const event = STATES[number % 3];
    const more = event === "job_finished" ? { event, exitStatus: "OK" } : { event };
    ids.delivered = await service.accept(receiver.url(`/ourjobmanager/ourjobno/${number}`), job(number, more));
    await service.waitFor(ids.delivered, "delivered");
  }
  receiver.answer = [410, "ourjobmanager: there is no job 12360"];
  ids.failed = await service.accept(receiver.url("/ourjobmanager/ourjobno/12360"), job(4736));
  await service.waitFor(ids.failed, "failed");
  const dead = await closed();
  for (let number = 4741; number < 4748; number += 1) {
    ids.pending = await service.accept(`${dead}/ourjobmanager/ourjobno/${number}`, job(number));
  }
  await eventually("the destination is open", async () => (await service.destination(dead))?.state === "open");
  await eventually("nothing is in flight", async () => (await service.api("GET", "/v1/queue")).inFlight === 0);
  return { ...ids, dead, receiver };
}
