/* cache.c - keys and values, in place or in two slabs that take turns. */
#include "cache.h"

#include <string.h>

#include "error.h"

#define COLUMN_STEP 64 /* columns are reserved in steps of so many */

static size_t tensors_of(const struct edgept_session *session)
{
    return 2 * session->bundle->facts.layers;
}

/* Bytes of one position in one of a tensor's heads. */
static size_t position_bytes(const struct edgept_session *session)
{
    return session->bundle->facts.head_dim * edgept_float_bytes(session->bundle);
}

/* Bytes of all tensors at so many columns. */
static size_t slab_bytes(const struct edgept_session *session, size_t columns)
{
    return tensors_of(session) * session->bundle->facts.kv_heads * columns * position_bytes(session);
}

/* Copy `length` positions of every head from blocks of `from` columns to blocks of `to`. */
static void copy_heads(const struct edgept_session *session, char *into, size_t to, const char *source,
                       size_t from, size_t length)
{
    size_t heads = tensors_of(session) * session->bundle->facts.kv_heads;
    size_t position = position_bytes(session);
    for (size_t i = 0; i < heads; i++)
        memcpy(into + i * to * position, source + i * from * position, length * position);
}

void edgept_cache_drop(struct edgept_session *session)
{
    const struct edgept_graph *graph = edgept_last_graph(session->bundle);
    size_t shared = session->bundle->facts.shares_buffer ? tensors_of(session) : 0;
    if (session->outputs.count > shared)
        edgept_tensors_cut(&session->outputs, graph, shared);
    session->outputs.count = 0; /* a shared buffer's are the inputs' */
    edgept_tensors_cut(&session->inputs, graph, 0);
}

void edgept_cache_release(struct edgept_session *session)
{
    struct edgept_cache *cache = &session->cache;
    edgept_cache_drop(session);
    edgept_session_drop(session, &cache->slabs[0]);
    edgept_session_drop(session, &cache->slabs[1]);
    *cache = (struct edgept_cache){.capacity = 0};
}

enum edgept_status edgept_cache_reserve(struct edgept_session *session, size_t capacity,
                                        struct edgept_error *error)
{
    struct edgept_cache *cache = &session->cache;
    const struct edgept_facts *facts = &session->bundle->facts;
    if (capacity <= cache->capacity)
        return EDGEPT_OK;
    size_t rounded = (capacity + COLUMN_STEP - 1) / COLUMN_STEP * COLUMN_STEP;
    size_t most = session->bundle->max_length > capacity ? session->bundle->max_length : capacity;
    size_t columns = rounded < most ? rounded : most, bytes = slab_bytes(session, columns);
    struct edgept_buffer grown = {NULL, 0};
    edgept_cache_drop(session);
    if (!facts->shares_buffer) { /* tensors are packed: they stay as they are in a longer slab */
        size_t kept = cache->begun != NULL ? 0 : slab_bytes(session, cache->length);
        cache->capacity = 0; /* on failure a slab may be gone, and the next request makes both */
        edgept_session_drop(session, &cache->slabs[1 - cache->turn]);
        enum edgept_status status =
            edgept_session_room(session, &cache->slabs[cache->turn], bytes, kept, error);
        if (status == EDGEPT_OK)
            status = edgept_session_room(session, &cache->slabs[1 - cache->turn], bytes, 0, error);
        if (status == EDGEPT_OK)
            cache->capacity = columns;
        return status;
    }
    /* a shared buffer's heads move apart */
    if (cache->length == 0) {
        edgept_session_drop(session, &cache->slabs[0]);
        cache->capacity = 0;
        cache->front = 0;
    }
    enum edgept_status status = edgept_session_room(session, &grown, bytes, 0, error);
    if (status)
        return status;
    memset(grown.data, 0, bytes);
    if (cache->length > 0)
        copy_heads(session, grown.data, columns, cache->slabs[0].data, cache->capacity, cache->length);
    edgept_session_drop(session, &cache->slabs[0]);
    cache->slabs[0] = grown;
    cache->capacity = columns;
    return EDGEPT_OK;
}

enum edgept_status edgept_cache_begin(struct edgept_session *session, const struct edgept_prompt *prompt,
                                      size_t capacity, struct edgept_error *error)
{
    struct edgept_cache *cache = &session->cache;
    bool shares = session->bundle->facts.shares_buffer;
    size_t length = prompt == NULL ? 0 : prompt->virtual_tokens;
    unsigned long long number = prompt == NULL ? 0 : prompt->number;
    bool is_there = shares && prompt != NULL && cache->front == number;
    cache->begun = NULL;
    cache->length = is_there ? length : 0; /* what reserve keeps */
    enum edgept_status status = edgept_cache_reserve(session, capacity, error);
    if (status)
        return status;
    if (!shares)
        cache->begun = prompt == NULL ? NULL : prompt->kv;
    else if (prompt != NULL && !is_there)
        copy_heads(session, cache->slabs[0].data, cache->capacity, prompt->kv, length, length);
    if (shares && !is_there)
        cache->front = number;
    cache->length = length;
    return EDGEPT_OK;
}

enum edgept_status edgept_cache_place(struct edgept_session *session, size_t added,
                                      struct edgept_error *error)
{
    const struct edgept_bundle *bundle = session->bundle;
    const struct edgept_graph *graph = edgept_last_graph(bundle);
    struct edgept_cache *cache = &session->cache;
    size_t tensors = tensors_of(session), columns = cache->length;
    enum edgept_status status = EDGEPT_OK;
    if (bundle->facts.shares_buffer) {
        columns = cache->capacity;
        if (session->outputs.count >= tensors)
            return EDGEPT_OK; /* they are there */
    }
    edgept_cache_drop(session);
    int64_t past[4] = {1, (int64_t)bundle->facts.kv_heads, (int64_t)columns, (int64_t)bundle->facts.head_dim};
    int64_t present[4] = {1, past[1], (int64_t)(columns + added), past[3]};
    size_t head = bundle->facts.kv_heads * position_bytes(session);
    char *from = cache->begun != NULL ? (char *)cache->begun : cache->slabs[cache->turn].data;
    char *into = cache->slabs[1 - cache->turn].data;
    for (size_t i = 0; status == EDGEPT_OK && i < tensors; i++) {
        const char *name = edgept_cache_name(bundle, EDGEPT_PRESENT, i);
        status = edgept_tensors_add(&session->inputs, graph, edgept_cache_name(bundle, EDGEPT_PAST, i),
                                    from + i * columns * head, edgept_float_type(bundle), past, 4, error);
        if (status == EDGEPT_OK && !bundle->facts.shares_buffer)
            status = edgept_tensors_add(&session->outputs, graph, name, into + i * (columns + added) * head,
                                        edgept_float_type(bundle), present, 4, error);
    }
    for (size_t i = 0; status == EDGEPT_OK && bundle->facts.shares_buffer && i < tensors; i++) {
        session->outputs.names[i] = edgept_cache_name(bundle, EDGEPT_PRESENT, i);
        session->outputs.values[i] = session->inputs.values[i];
        session->outputs.count = i + 1;
    }
    return status;
}

void edgept_cache_advance(struct edgept_session *session, size_t added)
{
    struct edgept_cache *cache = &session->cache;
    cache->length += added;
    if (!session->bundle->facts.shares_buffer) {
        cache->turn = 1 - cache->turn;
        cache->begun = NULL;
    }
}

void edgept_cache_copy(const struct edgept_session *session, void *into)
{
    const struct edgept_cache *cache = &session->cache;
    size_t columns = session->bundle->facts.shares_buffer ? cache->capacity : cache->length;
    copy_heads(session, into, cache->length, cache->slabs[cache->turn].data, columns, cache->length);
}
