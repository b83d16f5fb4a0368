// Runs the functions of an object one after the other and reports those that fail.

const TIMEOUT_MS = 30_000;

export async function run(tests) {
  let failed = 0;
  for (const [name, test] of Object.entries(tests)) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error("took too long")), TIMEOUT_MS);
    });
    try {
      await Promise.race([test(), late]);
    } catch (error) {
      failed += 1;
      console.log(`--- ${name}\n${error.stack}`);
    }
    clearTimeout(timer);
  }
  const count = Object.keys(tests).length;
  console.log(`${count - failed} of ${count} passed`);
  process.exit(failed ? 1 : 0);
}
