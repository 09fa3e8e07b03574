/*
 * graph_guard.c - walks a graph's protobuf wire format (https://protobuf.dev/programming-guides/encoding/).
 *
 * onnxruntime follows what a graph says: it opens the files that tensors name as external data, and
 * takes one location for an address in its own memory. So the file is judged first. Only what names an
 * operator or a file is looked at; where a field is repeated that should not be, every occurrence is
 * checked. Field numbers are those of onnx.proto, as in runtime/graph_guard.py.
 */
#include "graph_guard.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"

#define MAX_DEPTH 64 /* of messages: three for each level of If, Loop or Scan */

enum message {
    MODEL, TRAINING, FUNCTION, OPSET, GRAPH, NODE, ATTRIBUTE, SPARSE, TENSOR, ENTRY,
    DOMAIN, OP_TYPE, KEY, VALUE /* leaves: texts */
};

static const struct {
    enum message holder;
    uint32_t number;
    enum message content;
} fields[] = {
    {MODEL, 7, GRAPH},      {MODEL, 8, OPSET},       {MODEL, 20, TRAINING},   {MODEL, 25, FUNCTION},
    {TRAINING, 1, GRAPH},   {TRAINING, 2, GRAPH},    {FUNCTION, 7, NODE},     {FUNCTION, 9, OPSET},
    {FUNCTION, 10, DOMAIN}, {FUNCTION, 11, ATTRIBUTE}, {OPSET, 1, DOMAIN},    {GRAPH, 1, NODE},
    {GRAPH, 5, TENSOR},     {GRAPH, 15, SPARSE},     {NODE, 4, OP_TYPE},      {NODE, 5, ATTRIBUTE},
    {NODE, 7, DOMAIN},      {ATTRIBUTE, 5, TENSOR},  {ATTRIBUTE, 6, GRAPH},   {ATTRIBUTE, 10, TENSOR},
    {ATTRIBUTE, 11, GRAPH}, {ATTRIBUTE, 22, SPARSE}, {ATTRIBUTE, 23, SPARSE}, {SPARSE, 1, TENSOR},
    {SPARSE, 2, TENSOR},    {TENSOR, 13, ENTRY},     {ENTRY, 1, KEY},         {ENTRY, 2, VALUE}};

struct walk {
    const char *weights; /* the one file that external data may be in */
    bool found_graph, names_weights;
    enum edgept_status status; /* of the first offence */
    const char *found;
};

static bool refuse(struct walk *walk, enum edgept_status status, const char *found)
{
    walk->status = status;
    walk->found = found;
    return false;
}

static bool malformed(struct walk *walk)
{
    return refuse(walk, EDGEPT_INVALID_FILE, "is not an ONNX graph, or was cut short");
}

/* A number of at most 10 bytes; one that 64 bits do not hold is UINT64_MAX. */
static bool take_varint(const unsigned char **at, const unsigned char *end, uint64_t *value)
{
    *value = 0;
    for (unsigned shift = 0; shift < 70 && *at < end; shift += 7) {
        unsigned char byte = *(*at)++;
        *value |= (uint64_t)(byte & 0x7F) << shift;
        if (shift == 63 && (byte & 0x7F) > 1)
            *value = UINT64_MAX;
        if (byte < 0x80)
            return true;
    }
    return false;
}

static bool is_text(const unsigned char *text, size_t size, const char *wanted)
{
    return size == strlen(wanted) && memcmp(text, wanted, size) == 0;
}

static bool leaf(struct walk *walk, enum message kind, const unsigned char *text, size_t size)
{
    if (kind == DOMAIN && size != 0 && !is_text(text, size, "ai.onnx") &&
        !is_text(text, size, "com.microsoft"))
        return refuse(walk, EDGEPT_UNTRUSTED, "uses operators that are neither ONNX's nor onnxruntime's");
    if (kind == OP_TYPE && is_text(text, size, "EPContext"))
        return refuse(walk, EDGEPT_UNTRUSTED, "holds an EPContext node, a compiled program");
    return true;
}

/* The message in [at, end) and, through recursion, what it holds. */
static bool message(struct walk *walk, enum message kind, const unsigned char *at,
                    const unsigned char *end, int depth)
{
    const unsigned char *location = NULL;
    size_t location_size = 0;
    bool is_location = false;
    if (depth > MAX_DEPTH)
        return malformed(walk);
    walk->found_graph |= kind == GRAPH;
    while (at < end) {
        uint64_t tag, length = 0;
        if (!take_varint(&at, end, &tag) || tag < 8 || tag > UINT32_MAX)
            return malformed(walk);
        switch (tag & 7) {
        case 0:
            if (!take_varint(&at, end, &length))
                return malformed(walk);
            continue;
        case 1:
            length = 8;
            break;
        case 2:
            if (!take_varint(&at, end, &length))
                return malformed(walk);
            break;
        case 5:
            length = 4;
            break;
        default:
            return malformed(walk);
        }
        if (length > (uint64_t)(end - at))
            return malformed(walk);
        const unsigned char *begin = at;
        at += length;
        if ((tag & 7) != 2)
            continue;
        size_t i = 0, count = sizeof fields / sizeof *fields;
        while (i < count && (fields[i].holder != kind || fields[i].number != tag >> 3))
            i++;
        if (i == count)
            continue;
        enum message content = fields[i].content;
        if (content == KEY) {
            is_location = is_text(begin, (size_t)length, "location");
        } else if (content == VALUE) {
            location = begin;
            location_size = (size_t)length;
        } else if (content >= DOMAIN ? !leaf(walk, content, begin, (size_t)length)
                                     : !message(walk, content, begin, at, depth + 1)) {
            return false;
        }
    }
    if (is_location) {
        if (location == NULL || !is_text(location, location_size, walk->weights))
            return refuse(walk, EDGEPT_UNTRUSTED, "names weights in a file that is not its own");
        walk->names_weights = true;
    }
    return true;
}

static bool is_regular(const char *folder, const char *name)
{
    char path[4096];
    struct stat facts;
    return (size_t)snprintf(path, sizeof path, "%s/%s", folder, name) < sizeof path &&
           lstat(path, &facts) == 0 && S_ISREG(facts.st_mode);
}

enum edgept_status edgept_graph_guard(const char *folder, const char *name, const char *weights,
                                      struct edgept_error *error)
{
    char path[4096];
    struct stat facts;
    struct walk walk = {.weights = weights};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (descriptor < 0 || fstat(descriptor, &facts) != 0 || !S_ISREG(facts.st_mode)) {
        refuse(&walk, EDGEPT_UNTRUSTED, "is missing or no regular file");
    } else if (facts.st_size == 0) {
        malformed(&walk);
    } else {
        size_t size = (size_t)facts.st_size;
        void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (data == MAP_FAILED) {
            refuse(&walk, EDGEPT_FAILED, "cannot be mapped into memory");
        } else {
            const unsigned char *begin = data;
            if (message(&walk, MODEL, begin, begin + size, 0) && !walk.found_graph)
                malformed(&walk);
            else if (walk.found == NULL && walk.names_weights && !is_regular(folder, weights))
                refuse(&walk, EDGEPT_UNTRUSTED, "has its weights in a file that is missing, or a link");
            munmap(data, size);
        }
    }
    if (descriptor >= 0)
        close(descriptor);
    if (walk.found == NULL)
        return EDGEPT_OK;
    return edgept_fail(error, walk.status, walk.status == EDGEPT_INVALID_FILE ? "graph-malformed" : "",
                       "%s %s. Copy the whole bundle again, or export again.", path, walk.found);
}
