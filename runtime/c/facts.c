/* facts.c - a graph's own metadata, entries "edgept.<name>"; Manifest.to_metadata in edgept/manifest.py. */
#include "facts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

#define FORMAT_VERSION 1
#define LARGEST 0x7FFFFFFF

static const struct {
    const char *name;
    enum edgept_task task;
} tasks[] = {{"text-generation", EDGEPT_GENERATION},
             {"text2text-generation", EDGEPT_SEQ2SEQ},
             {"text-classification", EDGEPT_CLASSIFICATION},
             {"token-classification", EDGEPT_TAGGING},
             {"question-answering", EDGEPT_TAGGING},
             {"feature-extraction", EDGEPT_EMBEDDING},
             {"image-classification", EDGEPT_SEEING},
             {"image-feature-extraction", EDGEPT_SEEING},
             {"zero-shot-object-detection", EDGEPT_SEEING}};

/* Reads entry after entry; once one fails, the others do nothing. */
struct reading {
    const struct edgept_graph *graph;
    struct edgept_error *error;
    enum edgept_status status;
};

static void malformed(struct reading *reading, const char *name, const char *found)
{
    reading->status = edgept_fail(reading->error, EDGEPT_INVALID_FILE, "manifest-malformed",
                                  "the graph's own metadata says edgept.%s is %s. Copy the bundle again, or "
                                  "export again.",
                                  name, found == NULL ? "missing" : found);
}

/* A text, for free(); NULL where it is absent, which is an error unless it is optional. */
static char *text(struct reading *reading, const char *name, bool optional)
{
    char key[64], *value = NULL;
    if (reading->status)
        return NULL;
    snprintf(key, sizeof key, "edgept.%s", name);
    reading->status = edgept_graph_metadata(reading->graph, key, &value, reading->error);
    if (reading->status == EDGEPT_OK && value == NULL && !optional)
        malformed(reading, name, NULL);
    return value;
}

/* Parse a plain whole number; the character behind it, or NULL. */
static const char *whole(const char *digits, int64_t *number)
{
    *number = 0;
    if (*digits < '0' || *digits > '9')
        return NULL;
    for (; *digits >= '0' && *digits <= '9'; digits++) {
        *number = *number * 10 + (*digits - '0');
        if (*number > LARGEST)
            return NULL;
    }
    return digits;
}

/* A number from `least` on; `absent` where there is none and that is not below 0. */
static int64_t number(struct reading *reading, const char *name, int64_t least, int64_t absent)
{
    int64_t found = absent;
    char *value = text(reading, name, absent >= 0);
    if (value != NULL) {
        const char *end = whole(value, &found);
        if (end == NULL || *end != '\0' || found < least)
            malformed(reading, name, value);
    }
    free(value);
    return found;
}

static size_t size(struct reading *reading, const char *name)
{
    return (size_t)number(reading, name, 1, -1);
}

/* An id that may be absent: -1. */
static int64_t optional_id(struct reading *reading, const char *name)
{
    int64_t found = number(reading, name, 0, LARGEST);
    return found == LARGEST ? -1 : found;
}

/* Ids between commas, "1,2"; with sequences, "1,2;3" is 1, 2, -1, 3, -1. Absent is empty. */
static struct edgept_ids ids(struct reading *reading, const char *name, bool sequences)
{
    struct edgept_ids list = {NULL, 0};
    char *value = text(reading, name, true);
    if (value != NULL && *value != '\0') {
        list.ids = malloc((strlen(value) + 1) * sizeof *list.ids); /* an id or its end a byte, at most */
        if (list.ids == NULL)
            reading->status = edgept_no_memory(reading->error, "a bundle's metadata");
        const char *at = list.ids == NULL ? NULL : value;
        while (at != NULL) {
            int64_t id;
            at = whole(at, &id);
            if (at == NULL || (*at != '\0' && *at != ',' && !(sequences && *at == ';'))) {
                malformed(reading, name, value);
                break;
            }
            list.ids[list.count++] = id;
            if (sequences && *at != ',')
                list.ids[list.count++] = -1;
            at = *at == '\0' ? NULL : at + 1;
        }
    }
    free(value);
    return list;
}

static void read_cache(struct reading *reading, struct edgept_facts *facts)
{
    char *layers = text(reading, "kv.num_layers", true);
    facts->has_cache = layers != NULL;
    free(layers);
    if (!facts->has_cache)
        return;
    facts->layers = size(reading, "kv.num_layers");
    facts->kv_heads = size(reading, "kv.num_kv_heads");
    facts->head_dim = size(reading, "kv.head_dim");
    facts->shares_buffer = number(reading, "kv.shared_buffer", 0, -1) != 0;
    facts->depends_on_length = number(reading, "kv.depends_on_length", 0, 0) != 0;
    facts->prefix_only = number(reading, "kv.prefix_only", 0, 0) != 0;
}

static void read_head(struct reading *reading, struct edgept_facts *facts)
{
    const char *found;
    facts->head_size = (size_t)number(reading, "head_size", 1, 0);
    facts->head_is_dense = number(reading, "head_dense", 0, 0) != 0;
    char *labels = text(reading, "labels", true);
    if (labels != NULL && strcmp(labels, "[]") != 0) {
        enum edgept_status status = edgept_labels_parse(labels, strlen(labels), &facts->labels, &found);
        if (status == EDGEPT_NO_MEMORY)
            reading->status = edgept_no_memory(reading->error, "a bundle's labels");
        else if (status)
            malformed(reading, "labels", "no array of distinct class names");
    }
    free(labels);
}

static void read_rules(struct reading *reading, struct edgept_rules *rules)
{
    rules->start_token_id = number(reading, "decoding.start_token_id", 0, -1);
    rules->forced_bos_token_id = optional_id(reading, "decoding.forced_bos_token_id");
    rules->forced_eos_token_ids = ids(reading, "decoding.forced_eos_token_ids", false);
    rules->bad_words = ids(reading, "decoding.bad_words_ids", true);
    rules->begin_suppress_tokens = ids(reading, "decoding.begin_suppress_tokens", false);
    rules->no_repeat_ngram_size = (size_t)number(reading, "decoding.no_repeat_ngram_size", 0, 0);
    rules->min_length = (size_t)number(reading, "decoding.min_length", 0, 0);
    rules->min_new_tokens = (size_t)number(reading, "decoding.min_new_tokens", 0, 0);
}

/* A word of a few; its place among them. */
static size_t word(struct reading *reading, const char *name, const char *const *words, bool optional)
{
    size_t place = 0;
    char *value = text(reading, name, optional);
    if (value != NULL) {
        while (words[place] != NULL && strcmp(words[place], value) != 0)
            place++;
        if (words[place] == NULL)
            malformed(reading, name, value);
    }
    free(value);
    return place;
}

static void read_task(struct reading *reading, struct edgept_facts *facts)
{
    size_t count = sizeof tasks / sizeof *tasks, which = 0;
    facts->task_name = text(reading, "task", false);
    if (facts->task_name == NULL)
        return;
    while (which < count && strcmp(tasks[which].name, facts->task_name) != 0)
        which++;
    if (which < count)
        facts->task = tasks[which].task;
    else
        reading->status = edgept_fail(reading->error, EDGEPT_INCOMPATIBLE, "",
                                      "this is a bundle for %s, which this version does not run. Use the "
                                      "edgept version that exported it.",
                                      facts->task_name);
}

static void read_image(struct reading *reading, struct edgept_image *image)
{
    static const char *const finders[] = {"tokens", "patches", NULL};
    image->layers = size(reading, "image.num_layers");
    image->height = size(reading, "image.height");
    image->width = size(reading, "image.width");
    image->patch_size = size(reading, "image.patch_size");
    image->patches_detect = word(reading, "image.detects", finders, false) == 1;
    if (reading->status)
        return;
    image->rows = image->height / image->patch_size;
    image->columns = image->width / image->patch_size;
    if (image->rows == 0 || image->columns == 0)
        malformed(reading, "image.patch_size", "larger than the picture");
    else if (image->height > LARGEST / 3 / image->width) /* so that sizes of buffers do not wrap */
        malformed(reading, "image.height", "too large");
}

enum edgept_status edgept_facts_read(const struct edgept_graph *graph, struct edgept_facts *facts,
                                     struct edgept_error *error)
{
    static const char *const float_types[] = {"float32", "float16", NULL};
    static const char *const poolings[] = {"mean", "cls", NULL};
    struct reading reading = {graph, error, EDGEPT_OK};
    int64_t version = number(&reading, "format_version", 0, -1);
    if (reading.status == EDGEPT_OK && version != FORMAT_VERSION)
        return edgept_fail(error, EDGEPT_INVALID_FILE, "manifest-version",
                           "bundle format %lld, this library reads %d. Update it, or export again with the "
                           "version that runs here.",
                           (long long)version, FORMAT_VERSION);
    read_task(&reading, facts);
    facts->fingerprint = text(&reading, "fingerprint", false);
    if (facts->fingerprint != NULL && (strlen(facts->fingerprint) != 64 ||
                                       strspn(facts->fingerprint, "0123456789abcdef") != 64))
        malformed(&reading, "fingerprint", "not 64 hexadecimal digits");
    bool sees = facts->task == EDGEPT_SEEING;
    facts->vocab_size = (size_t)number(&reading, "vocab_size", sees ? 0 : 1, -1);
    facts->hidden_size = size(&reading, "hidden_size");
    facts->max_positions = size(&reading, "max_positions");
    facts->max_virtual_tokens = size(&reading, "max_virtual_tokens");
    facts->is_half = word(&reading, "float_type", float_types, false) == 1;
    facts->eos_token_ids = ids(&reading, "eos_token_ids", false);
    if (sees)
        read_image(&reading, &facts->image);
    else
        read_cache(&reading, facts);
    read_head(&reading, facts);
    facts->pad_token_id = optional_id(&reading, "pad_token_id");
    facts->pools_first = word(&reading, "pooling", poolings, facts->task != EDGEPT_EMBEDDING) == 1;
    facts->normalizes = number(&reading, "normalize", 0, 0) != 0;
    if (facts->task == EDGEPT_SEQ2SEQ)
        read_rules(&reading, &facts->rules);
    bool writes = facts->task == EDGEPT_GENERATION || facts->task == EDGEPT_SEQ2SEQ;
    bool has_head = facts->task == EDGEPT_CLASSIFICATION || facts->task == EDGEPT_TAGGING || sees;
    if (reading.status == EDGEPT_OK && ((writes && !facts->has_cache) || (has_head && facts->head_size == 0)))
        malformed(&reading, writes ? "kv.num_layers" : "head_size", NULL);
    return reading.status;
}

void edgept_facts_free(struct edgept_facts *facts)
{
    free(facts->task_name);
    free(facts->fingerprint);
    free(facts->eos_token_ids.ids);
    free(facts->labels.names);
    free(facts->rules.forced_eos_token_ids.ids);
    free(facts->rules.bad_words.ids);
    free(facts->rules.begin_suppress_tokens.ids);
}
