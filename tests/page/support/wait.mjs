// Waiting with a deadline.

// Long, because machines may be shared; a wait ends as soon as it happens.
export const DEADLINE = 120_000;

// Asks until the answer is true; the answer.
export async function eventually(what, ask, deadline = DEADLINE) {
  const end = Date.now() + deadline;
  for (;;) {
    const found = await ask();
    if (found) return found;
    if (Date.now() > end) throw new Error(`not within ${deadline} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
