// openai-node's own client.beta, as programs that were written for the original use it. Called with the base URL, the
// key being in OPENAI_API_KEY; says on its last line which methods of which resources it has called.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { counted } from "./counted.mjs";

const openai = new OpenAI({ baseURL: process.argv[2], maxRetries: 0 });
const { assistants, threads } = openai.beta;
const { messages, runs } = threads;
const { steps } = runs;
const called = counted({ assistants, threads, messages, runs, steps });

const QUESTION = { role: "user", content: "What should I wear in Oslo?" };
const WEATHER = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Tell the weather in a city.",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};

const made = await assistants.create({ model: "demo", tools: [WEATHER] });
const assistant_id = made.id;
assert.equal((await assistants.update(assistant_id, { name: "Adviser" })).name, "Adviser");
assert.equal((await assistants.retrieve(assistant_id)).name, "Adviser");
assert.equal((await assistants.list({ limit: 1 })).data[0].id, assistant_id);

const thread = await threads.create({ messages: [QUESTION] });
const thread_id = thread.id;
assert.deepEqual((await threads.update(thread_id, { metadata: { k: "v" } })).metadata, { k: "v" });
assert.deepEqual((await threads.retrieve(thread_id)).metadata, { k: "v" });

const extra = await messages.create(thread_id, { role: "user", content: "Today, I mean." });
assert.equal((await messages.update(extra.id, { thread_id, metadata: { k: "v" } })).id, extra.id);
assert.equal((await messages.retrieve(extra.id, { thread_id })).metadata.k, "v");
const listed = [];
for await (const message of messages.list(thread_id, { limit: 1 })) listed.push(textOf(message));
assert.deepEqual(listed, ["Today, I mean.", QUESTION.content]);
assert.ok((await messages.delete(extra.id, { thread_id })).deleted);

// A run that is answered by polling, and its steps.
let run = await runs.createAndPoll(thread_id, { assistant_id });
assert.equal(run.status, "requires_action");
run = await runs.submitToolOutputsAndPoll(run.id, { thread_id, tool_outputs: outputsOf(run) });
assert.equal(run.status, "completed");
assert.deepEqual(await runs.retrieve(run.id, { thread_id }), run);
assert.equal((await runs.update(run.id, { thread_id, metadata: { k: "v" } })).metadata.k, "v");
const page = await steps.list(run.id, { thread_id, order: "asc" });
assert.deepEqual(page.data.map((step) => step.type), ["tool_calls", "message_creation"]);
assert.deepEqual(await steps.retrieve(page.data[0].id, { thread_id, run_id: run.id }), page.data[0]);

// A run that is refused beside another, answered without waiting, and one that is cancelled.
run = await runs.create(thread_id, { assistant_id });
await assert.rejects(runs.create(thread_id, { assistant_id }), (error) => {
  assert.ok(error instanceof OpenAI.BadRequestError);
  return error.message.includes(`already has an active run ${run.id}`) && error.requestID.startsWith("req_");
});
run = await runs.poll(run.id, { thread_id });
assert.equal((await runs.submitToolOutputs(run.id, { thread_id, tool_outputs: outputsOf(run) })).status, "queued");
assert.equal((await runs.poll(run.id, { thread_id })).status, "completed");
run = await runs.createAndPoll(thread_id, { assistant_id });
assert.equal((await runs.cancel(run.id, { thread_id })).status, "cancelling");
assert.equal((await runs.poll(run.id, { thread_id })).status, "cancelled");
assert.equal((await runs.list(thread_id)).data.length, 3);

// Streams, with the events that AssistantStream makes of them.
const asking = runs.stream(thread_id, { assistant_id });
const asked = [];
asking.on("toolCallDone", (call) => asked.push(call.function.name));
run = await asking.finalRun();
assert.deepEqual(asked, ["get_weather"]);
const answering = runs.submitToolOutputsStream(run.id, { thread_id, tool_outputs: outputsOf(run) });
let told = "";
answering.on("textDelta", (delta) => (told += delta.value ?? ""));
const [answer] = await answering.finalMessages();
assert.equal(textOf(answer), told);
assert.ok(told.includes("light rain, 3 °C"));
const again = runs.createAndStream(thread_id, { assistant_id, tool_choice: "none" });
assert.equal((await again.finalRun()).status, "completed");
const events = [];
for await (const { event } of await threads.createAndRun({ assistant_id, thread: { messages: [QUESTION] }, stream: true }))
  events.push(event);
assert.deepEqual([events[0], events.at(-1)], ["thread.created", "thread.run.requires_action"]);
const whole = threads.createAndRunStream({ assistant_id, thread: { messages: [QUESTION] }, tool_choice: "none" });
assert.equal((await whole.finalRun()).status, "completed");
run = await threads.createAndRunPoll({ assistant_id, thread: { messages: [QUESTION] }, tool_choice: "none" });
assert.equal(run.status, "completed");

assert.ok((await threads.delete(thread_id)).deleted);
await assert.rejects(threads.retrieve(thread_id), OpenAI.NotFoundError);
assert.ok((await assistants.delete(assistant_id)).deleted);
await assert.rejects(new OpenAI({ baseURL: process.argv[2], apiKey: "wrong" }).beta.threads.create(), OpenAI.AuthenticationError);

const missed = Object.entries(called).filter(([, times]) => times === 0);
assert.deepEqual(missed, []);
console.log(JSON.stringify(Object.keys(called)));

function outputsOf(run) {
  const calls = run.required_action.submit_tool_outputs.tool_calls;
  return calls.map((call) => ({ tool_call_id: call.id, output: "light rain, 3 °C" }));
}

function textOf(message) {
  return message.content.map((part) => part.text.value).join("");
}
