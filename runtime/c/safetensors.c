/*
 * safetensors.c - the safetensors container, read more strictly than its own library does.
 *
 * Nothing but the header is in memory until the header is right; each byte is read once. Half-width
 * values are widened in place, so that no file takes more than twice its size. The rules are those of
 * edgept/prompt_file.md, in its order.
 */
#include "safetensors.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "half.h"
#include "json.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tensors are little-endian and read as they are: this machine would need a swap of bytes"
#endif

_Static_assert(sizeof(size_t) >= 8, "libedgept needs a 64-bit size_t"); /* lengths in a file are */

#define MAX_HEADER_BYTES (64u << 10)
#define MAX_DEPTH 3 /* file, tensor, shape */

const char *const edgept_tensor_names[EDGEPT_TENSOR_NAMES] = {
    "prompt_embeds", "prompt_kv", "head.weight", "head.bias", "head.dense.weight", "head.dense.bias",
    "box.weight", "box.bias"};
static const size_t min_ranks[] = {2, 5, 2, 1, 2, 1, 2, 1}, max_ranks[] = {3, 5, 2, 1, 2, 1, 2, 1};


/* One tensor as the header announces it: bytes [begin, end) of the data. */
struct entry {
    enum edgept_tensor_name name;
    size_t item_bytes; /* 4 for F32, 2 for the halves */
    bool is_bfloat16;
    size_t rank;
    uint64_t shape[EDGEPT_MAX_RANK];
    uint64_t begin, end;
};

struct layout {
    struct entry entries[EDGEPT_TENSOR_NAMES];
    size_t count;
    uint64_t data_bytes;
};

enum edgept_status edgept_invalid(struct edgept_error *error, const char *reason, const char *found)
{
    return edgept_fail(error, EDGEPT_INVALID_FILE, reason,
                       "%s (%s). Pack the prompt again with 'edgept prompt pack', or copy it again.",
                       found, reason);
}

/* ---- rule 1: each byte is read once ---- */

static enum edgept_status changed(struct edgept_error *error)
{
    return edgept_invalid(error, "file-changed", "the file grew or shrank while it was read");
}

/* Read exactly so many bytes. */
static enum edgept_status take(struct edgept_source *source, void *into, size_t count,
                               struct edgept_error *error)
{
    if (count > source->left)
        return changed(error);
    source->left -= count;
    if (source->descriptor < 0) {
        memcpy(into, source->data, count);
        source->data += count;
        return EDGEPT_OK;
    }
    for (char *at = into; count > 0;) {
        ssize_t got = read(source->descriptor, at, count);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return edgept_fail(error, EDGEPT_FAILED, "", "reading stopped: %s. Check the disk.",
                               strerror(errno));
        if (got == 0)
            return changed(error);
        at += got;
        count -= (size_t)got;
    }
    return EDGEPT_OK;
}

static enum edgept_status check_end(struct edgept_source *source, struct edgept_error *error)
{
    char more;
    ssize_t got = 0;
    if (source->descriptor >= 0) {
        do
            got = read(source->descriptor, &more, 1);
        while (got < 0 && errno == EINTR);
    }
    return got == 0 ? EDGEPT_OK : changed(error);
}

/* ---- rules 2 and 3: the header ---- */

/* Read and check the header; *text gets it, to be freed, with a zero byte behind it. */
static enum edgept_status read_header(struct edgept_source *source, char **text, struct edgept_error *error)
{
    unsigned char raw[8];
    uint64_t length = 0;
    size_t at;
    enum edgept_status status = take(source, raw, sizeof raw, error);
    if (status)
        return status;
    for (int i = 7; i >= 0; i--)
        length = length << 8 | raw[i];
    if (length > MAX_HEADER_BYTES)
        return edgept_invalid(error, "header-too-large", "the header claims more than 65536 bytes");
    if (length > source->left)
        return edgept_invalid(error, "header-truncated", "the header claims more bytes than follow it");
    char *header = malloc((size_t)length + 1);
    if (header == NULL)
        return edgept_no_memory(error, "a prompt file's header");
    header[length] = '\0';
    const char *reason = NULL;
    status = take(source, header, (size_t)length, error);
    if (status == EDGEPT_OK) {
        if (header[0] != '{')
            reason = "header-start";
        else if (!edgept_utf8_check(header, (size_t)length))
            reason = "header-utf8";
        else
            reason = edgept_json_check(header, (size_t)length, MAX_DEPTH, &at);
    }
    if (reason != NULL && strcmp(reason, "no-memory") == 0)
        status = edgept_no_memory(error, "a prompt file's header");
    else if (reason != NULL)
        status = edgept_invalid(error, reason, "the header is not the strict JSON of a prompt file");
    if (status)
        free(header);
    else
        *text = header;
    return status;
}

/* ---- rule 4: the tensors ---- */

/* Up to `room` numbers of an array; false where something in it is none. Returns how many in *count. */
static bool take_numbers(struct edgept_json *json, uint64_t *numbers, size_t room, size_t *count)
{
    bool only_numbers = true;
    *count = 0;
    edgept_json_open(json);
    while (edgept_json_next(json)) {
        if (edgept_json_kind(json) != '0') {
            only_numbers = false;
            edgept_json_skip(json);
            continue;
        }
        uint64_t number = edgept_json_number(json);
        if (*count < room)
            numbers[*count] = number;
        ++*count;
    }
    return only_numbers;
}

/* dtype, shape and data_offsets, exactly these and of their types; NULL, or the reason. */
static const char *read_fields(struct edgept_json *json, struct entry *entry)
{
    char key[16], dtype[8] = "";
    uint64_t offsets[2] = {0, 0};
    size_t length, count = 0, offset_count = 0, fields = 0;
    bool is_right = true;
    if (edgept_json_kind(json) != '{') {
        edgept_json_skip(json);
        return "tensor-entry";
    }
    edgept_json_open(json);
    for (; edgept_json_next(json); fields++) {
        length = edgept_json_string(json, key, sizeof key);
        char kind = edgept_json_kind(json);
        if (edgept_json_is(key, "dtype", length) && kind == '"') {
            if (edgept_json_string(json, dtype, sizeof dtype) != strlen(dtype))
                dtype[0] = '\0';
        } else if (edgept_json_is(key, "shape", length) && kind == '[') {
            is_right &= take_numbers(json, entry->shape, EDGEPT_MAX_RANK, &count);
        } else if (edgept_json_is(key, "data_offsets", length) && kind == '[') {
            is_right &= take_numbers(json, offsets, 2, &offset_count);
        } else {
            is_right = false;
            edgept_json_skip(json);
        }
    }
    /* no key occurs twice, so three right ones are all three */
    if (!is_right || fields != 3 || offset_count != 2)
        return "tensor-entry";
    entry->item_bytes = strcmp(dtype, "F32") == 0 ? 4 : 2;
    entry->is_bfloat16 = strcmp(dtype, "BF16") == 0;
    if (entry->item_bytes == 2 && !entry->is_bfloat16 && strcmp(dtype, "F16") != 0)
        return "tensor-dtype";
    entry->rank = count;
    entry->begin = offsets[0];
    entry->end = offsets[1];
    return NULL;
}

/* One tensor by itself; NULL, or the reason. */
static const char *read_entry(struct edgept_json *json, const char *name, size_t length,
                              uint64_t data_bytes, struct entry *entry)
{
    size_t known = 0;
    while (known < EDGEPT_TENSOR_NAMES && !edgept_json_is(name, edgept_tensor_names[known], length))
        known++;
    if (known == EDGEPT_TENSOR_NAMES)
        return "tensor-name";
    entry->name = (enum edgept_tensor_name)known;
    const char *reason = read_fields(json, entry);
    if (reason != NULL)
        return reason;
    if (entry->rank < min_ranks[known] || entry->rank > max_ranks[known])
        return "tensor-rank";
    for (size_t i = 0; i < entry->rank; i++)
        if (entry->shape[i] == 0)
            return "tensor-zero-dim";
    if (known == EDGEPT_PROMPT_KV && entry->shape[1] != 2)
        return "tensor-shape";
    uint64_t needed = entry->item_bytes;
    for (size_t i = 0; i < entry->rank; i++) {
        if (needed > (uint64_t)INT64_MAX / entry->shape[i])
            return "tensor-overflow";
        needed *= entry->shape[i];
    }
    if (entry->begin > entry->end || entry->end > data_bytes)
        return "tensor-out-of-bounds";
    return entry->end - entry->begin == needed ? NULL : "tensor-size";
}

/* All tensors together: contiguous, without holes, overlaps or trailing bytes; NULL, or the reason. */
static const char *check_layout(struct layout *layout)
{
    uint64_t position = 0;
    if (layout->count == 0)
        return "tensor-missing";
    for (size_t i = 1; i < layout->count; i++) { /* into file order */
        struct entry entry = layout->entries[i];
        size_t place = i;
        for (; place > 0; place--) {
            const struct entry *before = &layout->entries[place - 1];
            if (before->begin < entry.begin ||
                (before->begin == entry.begin && before->end <= entry.end))
                break;
            layout->entries[place] = *before;
        }
        layout->entries[place] = entry;
    }
    for (size_t i = 0; i < layout->count; i++) {
        if (layout->entries[i].begin > position)
            return "data-hole";
        if (layout->entries[i].begin < position)
            return "data-overlap";
        position = layout->entries[i].end;
    }
    return position == layout->data_bytes ? NULL : "data-trailing";
}

/* Whether the parts of a head belong together. */
static const char *check_head(const struct layout *layout)
{
    const struct entry *found[EDGEPT_TENSOR_NAMES] = {NULL};
    for (size_t i = 0; i < layout->count; i++)
        found[layout->entries[i].name] = &layout->entries[i];
    const struct entry *weight = found[EDGEPT_HEAD_WEIGHT], *bias = found[EDGEPT_HEAD_BIAS];
    const struct entry *dense = found[EDGEPT_HEAD_DENSE_WEIGHT];
    const struct entry *dense_bias = found[EDGEPT_HEAD_DENSE_BIAS];
    if (bias != NULL && (weight == NULL || weight->shape[0] != bias->shape[0]))
        return "head-mismatch";
    if (dense == NULL && dense_bias == NULL)
        return NULL;
    if (weight == NULL || dense == NULL || dense_bias == NULL)
        return "head-mismatch";
    uint64_t size = weight->shape[1];
    bool fits = dense->shape[0] == size && dense->shape[1] == size && dense_bias->shape[0] == size;
    return fits ? NULL : "head-mismatch";
}

/* Whether what reads a box reads what the head does. */
static const char *check_box(const struct layout *layout)
{
    const struct entry *found[EDGEPT_TENSOR_NAMES] = {NULL};
    for (size_t i = 0; i < layout->count; i++)
        found[layout->entries[i].name] = &layout->entries[i];
    const struct entry *weight = found[EDGEPT_HEAD_WEIGHT], *box = found[EDGEPT_BOX_WEIGHT];
    const struct entry *bias = found[EDGEPT_BOX_BIAS];
    if (box == NULL && bias == NULL)
        return NULL;
    if (weight == NULL || box == NULL || bias == NULL)
        return "box-mismatch";
    bool fits = box->shape[0] == 4 && box->shape[1] == weight->shape[1] && bias->shape[0] == 4;
    return fits ? NULL : "box-mismatch";
}

/* Every tensor of a checked header. */
static const char *read_layout(const char *header, struct layout *layout)
{
    struct edgept_json json = {header};
    const char *reason = NULL;
    edgept_json_open(&json);
    while (reason == NULL && edgept_json_next(&json)) {
        char name[24];
        size_t length = edgept_json_string(&json, name, sizeof name);
        if (edgept_json_is(name, "__metadata__", length)) {
            edgept_json_skip(&json);
            continue;
        }
        /* names differ and are of the closed set, so there is room for each */
        struct entry entry = {.rank = 0};
        reason = read_entry(&json, name, length, layout->data_bytes, &entry);
        if (reason == NULL)
            layout->entries[layout->count++] = entry;
    }
    if (reason == NULL)
        reason = check_layout(layout);
    if (reason == NULL)
        reason = check_head(layout);
    return reason != NULL ? reason : check_box(layout);
}

/* ---- rule 5: the values ---- */

static enum edgept_status read_values(struct edgept_source *source, const struct entry *entry,
                                      struct edgept_tensor *tensor, struct edgept_error *error)
{
    size_t bytes = (size_t)(entry->end - entry->begin), count = bytes / entry->item_bytes;
    if (count > SIZE_MAX / sizeof(float))
        return edgept_no_memory(error, "a prompt's tensor");
    tensor->values = malloc(count * sizeof(float));
    if (tensor->values == NULL)
        return edgept_no_memory(error, "a prompt's tensor");
    tensor->count = count;
    tensor->rank = entry->rank;
    for (size_t i = 0; i < entry->rank; i++)
        tensor->shape[i] = (size_t)entry->shape[i];
    /* halves go to the upper half of the array: widening from the front never reaches an unread one */
    char *at = (char *)tensor->values + (count * sizeof(float) - bytes);
    enum edgept_status status = take(source, at, bytes, error);
    for (size_t i = 0; status == EDGEPT_OK && i < count; i++) {
        uint32_t bits;
        uint16_t half;
        if (entry->item_bytes == 4) {
            memcpy(&bits, &tensor->values[i], 4);
        } else {
            memcpy(&half, at + 2 * i, 2);
            bits = entry->is_bfloat16 ? (uint32_t)half << 16 : edgept_half_widen(half);
            memcpy(&tensor->values[i], &bits, 4);
        }
        if ((bits & 0x7F800000) == 0x7F800000)
            status = edgept_invalid(error, "value-not-finite", "a tensor holds an infinity or a NaN");
    }
    return status;
}

/* ---- the whole ---- */

enum edgept_status edgept_safetensors_read(struct edgept_source *source,
                                           struct edgept_tensor tensors[EDGEPT_TENSOR_NAMES],
                                           char **header, struct edgept_error *error)
{
    struct layout layout = {.count = 0};
    enum edgept_status status = read_header(source, header, error);
    if (status)
        return status;
    layout.data_bytes = source->left;
    const char *reason = read_layout(*header, &layout);
    if (reason != NULL)
        return edgept_invalid(error, reason, "the tensors are not those of a prompt");
    for (size_t i = 0; status == EDGEPT_OK && i < layout.count; i++)
        status = read_values(source, &layout.entries[i], &tensors[layout.entries[i].name], error);
    return status ? status : check_end(source, error);
}
