// openai-node's own files, uploads, vectorStores and models. Called with the base URL of the server, or of /openai with
// "azure", the key being in OPENAI_API_KEY; says on its last line which methods of which resources it has called.
import assert from "node:assert/strict";
import OpenAI, { AzureOpenAI, toFile } from "openai";
import { counted } from "./counted.mjs";

const [, , address, by] = process.argv;
const apiKey = process.env.OPENAI_API_KEY;
const openai =
  by === "azure"
    ? new AzureOpenAI({ endpoint: address.replace(/\/v1$/, ""), apiKey, apiVersion: "2024-05-01-preview", maxRetries: 0 })
    : new OpenAI({ baseURL: address, maxRetries: 0 });
const { files, uploads, vectorStores, models } = openai;
const { fileBatches } = vectorStores;
const called = counted({
  files, uploads, parts: uploads.parts, vectorStores, storeFiles: vectorStores.files, fileBatches, models,
});

const FERRY = "The ferry to the island leaves every two hours and takes no cars. Über 3 Stunden.";
const bytes = Buffer.from(FERRY);

// Files.
const file = await files.create({ file: await toFile(bytes, "Fähre.md"), purpose: "assistants" });
assert.deepEqual([file.filename, file.bytes, file.status], ["Fähre.md", bytes.length, "processed"]);
const expires_after = { anchor: "created_at", seconds: 3600 };
const brief = await files.create({ file: await toFile(Buffer.from("x"), "a.txt"), purpose: "user_data", expires_after });
assert.equal(brief.expires_at, brief.created_at + 3600);
assert.deepEqual(await files.retrieve(file.id), file);
assert.deepEqual(await files.waitForProcessing(file.id), file);
assert.equal(await (await files.content(file.id)).text(), FERRY);
for await (const each of files.list({ purpose: "user_data", limit: 1 })) {
  assert.equal(each.id, brief.id);
  break;
}
assert.ok((await files.delete(brief.id)).deleted);
await assert.rejects(files.retrieve(brief.id), OpenAI.NotFoundError);

// Uploads.
const plan = { bytes: bytes.length, filename: "ferry.txt", mime_type: "text/plain", purpose: "assistants" };
const upload = await uploads.create(plan);
const part_ids = [];
for (const piece of [bytes.subarray(0, 30), bytes.subarray(30)])
  part_ids.push((await uploads.parts.create(upload.id, { data: await toFile(piece, "part") })).id);
const done = await uploads.complete(upload.id, { part_ids });
assert.equal(await (await files.content(done.file.id)).text(), FERRY);
assert.equal((await uploads.cancel((await uploads.create(plan)).id)).status, "cancelled");

// Vector stores and their files.
const store = await vectorStores.create({ name: "Island", file_ids: [file.id] });
assert.equal((await vectorStores.files.poll(store.id, file.id)).status, "completed");
assert.equal((await vectorStores.update(store.id, { name: "Isle" })).name, "Isle");
assert.equal((await vectorStores.retrieve(store.id)).file_counts.completed, 1);
assert.ok((await vectorStores.list({ limit: 5 })).data.some(({ id }) => id === store.id));
const found = await vectorStores.search(store.id, { query: "When does the boat go?", max_num_results: 1 });
assert.deepEqual([found.data[0].file_id, found.data[0].content[0].text], [file.id, FERRY]);
const of = { vector_store_id: store.id };
assert.equal((await vectorStores.files.retrieve(file.id, of)).status, "completed");
assert.deepEqual((await vectorStores.files.update(file.id, { ...of, attributes: { a: 1 } })).attributes, { a: 1 });
assert.equal((await vectorStores.files.content(file.id, of)).data[0].text, FERRY);
assert.deepEqual((await vectorStores.files.list(store.id)).data.map(({ id }) => id), [file.id]);
const polled = await vectorStores.files.uploadAndPoll(store.id, await toFile(Buffer.from("An answer"), "b.txt"));
assert.equal(polled.status, "completed");
assert.ok((await vectorStores.files.delete(polled.id, of)).deleted);
assert.equal((await vectorStores.files.create(store.id, { file_id: polled.id })).status, "in_progress");
assert.equal((await vectorStores.files.createAndPoll(store.id, { file_id: polled.id })).status, "completed");
assert.ok((await vectorStores.files.upload(store.id, await toFile(Buffer.from("More"), "c.txt"))).id);

// Batches.
const batch = await fileBatches.create(store.id, { file_ids: [file.id] });
assert.equal((await fileBatches.poll(store.id, batch.id)).status, "completed");
assert.equal((await fileBatches.retrieve(batch.id, of)).file_counts.completed, 1);
assert.deepEqual((await fileBatches.listFiles(batch.id, of)).data.map(({ id }) => id), [file.id]);
assert.equal((await fileBatches.createAndPoll(store.id, { file_ids: [file.id] })).status, "completed");
const texts = await Promise.all(["d", "e"].map((text) => toFile(Buffer.from(text), `${text}.txt`)));
const both = await fileBatches.uploadAndPoll(store.id, { files: texts, fileIds: [file.id] });
assert.deepEqual([both.status, both.file_counts.completed], ["completed", 3]);
const late = await fileBatches.create(store.id, { file_ids: [file.id] });
await fileBatches.cancel(late.id, of).then(
  ({ status }) => assert.equal(status, "cancelled"),
  (error) => assert.match(error.message, /with status 'completed'/), // it was faster
);
assert.ok((await vectorStores.delete(store.id)).deleted);

// Models, by their names and by an alias.
const names = [];
for await (const { id } of models.list()) names.push(id);
assert.ok(names.includes("demo"));
for (const name of ["demo", ...names.filter((name) => name.startsWith("gpt-"))])
  assert.equal((await models.retrieve(name)).id, name);
await assert.rejects(models.retrieve("none"), (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found");

// There are no fine-tuned models to be deleted here.
const missed = Object.entries(called).filter(([name, times]) => times === 0 && name !== "models.delete");
assert.deepEqual(missed, []);
console.log(JSON.stringify({ called: Object.keys(called), names }));
