"""Vector stores, their files, batches of files, and searches."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from nbruns.server.retrieval import vector_stores
from nbruns.server.retrieval.embeddings import EmbeddingError
from nbruns.server.retrieval.index import RESULTS, WrongModelError
from nbruns.server.routes.operation import Call, list_objects, operation, polled
from nbruns.server.schemas.base import ListQuery, Page
from nbruns.server.schemas.errors import Refused
from nbruns.server.schemas.vector_stores import (
    CreateFileBatchRequest,
    CreateVectorStoreFileRequest,
    CreateVectorStoreRequest,
    DeleteVectorStoreFileResponse,
    DeleteVectorStoreResponse,
    FileBatchObject,
    ListVectorStoreFilesQuery,
    SearchRequest,
    SearchResults,
    UpdateVectorStoreFileRequest,
    UpdateVectorStoreRequest,
    VectorStoreFileContent,
    VectorStoreFileObject,
    VectorStoreObject,
)
from nbruns.server.storage import files
from nbruns.text import JSON

_STORES = "/v1/vector_stores"
_STORE = _STORES + "/{vector_store_id}"
_FILES = _STORE + "/files"
_FILE = _FILES + "/{file_id}"
_BATCHES = _STORE + "/file_batches"
_BATCH = _BATCHES + "/{batch_id}"


@operation("POST", _STORES, VectorStoreObject, CreateVectorStoreRequest)
async def create_vector_store(call: Call) -> JSON:
    made = await call.db.write(vector_stores.create, call.params)
    call.services.ingester.wake()
    return made


@operation("GET", _STORES, Page[VectorStoreObject], query=ListQuery)
async def list_vector_stores(call: Call) -> JSON:
    page = await list_objects(call, files.vector_stores)
    return {**page, "data": await call.db.read(vector_stores.with_counts, page["data"])}


@operation("GET", _STORE, VectorStoreObject)
async def get_vector_store(call: Call) -> JSON:
    return await call.db.read(vector_stores.get, _store_id(call))


@operation("POST", _STORE, VectorStoreObject, UpdateVectorStoreRequest)
async def update_vector_store(call: Call) -> JSON:
    return await call.db.write(vector_stores.update, _store_id(call), call.params)


@operation("DELETE", _STORE, DeleteVectorStoreResponse)
async def delete_vector_store(call: Call) -> JSON:
    id = _store_id(call)
    if not await call.db.write(files.delete_vector_store, id):
        raise vector_stores.no_such_store(id)
    call.services.index.forget(id)
    return DeleteVectorStoreResponse.new(id=id)


@operation("POST", _FILES, VectorStoreFileObject, CreateVectorStoreFileRequest)
async def create_vector_store_file(call: Call) -> JSON:
    [added] = await call.db.write(vector_stores.add_files, _store_id(call), [call.params])
    call.services.ingester.wake()
    return added


@operation("GET", _FILES, Page[VectorStoreFileObject], query=ListVectorStoreFilesQuery)
async def list_vector_store_files(call: Call) -> JSON:
    await get_vector_store(call)
    where = {"vector_store_id": _store_id(call), "status": call.query["filter"]}
    return await list_objects(call, files.vector_store_files, where)


@operation("GET", _FILE, VectorStoreFileObject)
async def get_vector_store_file(call: Call) -> Response:
    return polled(await call.db.read(vector_stores.get_file, _store_id(call), call.path["file_id"]))


@operation("POST", _FILE, VectorStoreFileObject, UpdateVectorStoreFileRequest)
async def update_vector_store_file(call: Call) -> JSON:
    attributes = call.params["attributes"] or {}
    return await call.db.write(vector_stores.update_file, _store_id(call), call.path["file_id"], attributes)


@operation("DELETE", _FILE, DeleteVectorStoreFileResponse)
async def delete_vector_store_file(call: Call) -> JSON:
    await get_vector_store_file(call)
    await call.db.write(files.remove, _store_id(call), call.path["file_id"])
    return DeleteVectorStoreFileResponse.new(id=call.path["file_id"])


@operation("GET", _FILE + "/content", VectorStoreFileContent)
async def get_vector_store_file_content(call: Call) -> JSON:
    await get_vector_store_file(call)
    texts = await call.db.read(vector_stores.texts_of, _store_id(call), call.path["file_id"])
    return VectorStoreFileContent.new(data=[{"type": "text", "text": text} for text in texts])


@operation("POST", _BATCHES, FileBatchObject, CreateFileBatchRequest)
async def create_file_batch(call: Call) -> JSON:
    batch = await call.db.write(vector_stores.create_batch, _store_id(call), call.params)
    call.services.ingester.wake()
    return batch


@operation("GET", _BATCH, FileBatchObject)
async def get_file_batch(call: Call) -> Response:
    return polled(await call.db.read(vector_stores.get_batch, _store_id(call), call.path["batch_id"]))


@operation("POST", _BATCH + "/cancel", FileBatchObject)
async def cancel_file_batch(call: Call) -> JSON:
    return await call.db.write(vector_stores.cancel_batch, _store_id(call), call.path["batch_id"])


@operation("GET", _BATCH + "/files", Page[VectorStoreFileObject], query=ListVectorStoreFilesQuery)
async def list_files_in_batch(call: Call) -> JSON:
    await get_file_batch(call)
    where = {
        "vector_store_id": _store_id(call),
        "batch_id": call.path["batch_id"],
        "status": call.query["filter"],
    }
    return await list_objects(call, files.vector_store_files, where)


@operation("POST", _STORE + "/search", SearchResults, SearchRequest)
async def search_vector_store(call: Call) -> JSON:
    id, params = _store_id(call), call.params
    await call.db.read(vector_stores.check_usable, [id])
    query = params["query"]
    queries: Sequence[str] = [query] if isinstance(query, str) else query
    try:
        found = await call.services.index.search(
            [id],
            queries,
            filters=params.get("filters"),
            limit=params.get("max_num_results") or RESULTS,
            ranking=params.get("ranking_options"),
        )
    except WrongModelError as error:
        raise Refused(str(error), code="embedding_model_changed") from None
    except EmbeddingError as error:
        raise Refused(f"The query could not be embedded: {error}", status=502, type="server_error") from None
    await call.db.write(vector_stores.touch, [id])
    return SearchResults.new(
        search_query=list(queries),
        data=[
            {
                "file_id": each.file_id,
                "filename": each.filename,
                "score": each.score,
                "attributes": each.attributes,
                "content": [{"type": "text", "text": each.text}],
            }
            for each in found
        ],
    )


def _store_id(call: Call) -> str:
    return call.path["vector_store_id"]
