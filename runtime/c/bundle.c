/* bundle.c - open a bundle: its hashes, what its graphs refer to, the graphs themselves, their metadata. */
#include "bundle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "graph_guard.h"
#include "hashes.h"
#include "text.h"

#define MAX_PATH_BYTES 4096
#define TABLE_NAME "tokenizer.bin"
#define MIN_API 21 /* onnxruntime 1.21 */

static bool has_file(const char *folder, const char *name)
{
    char path[MAX_PATH_BYTES];
    return (size_t)snprintf(path, sizeof path, "%s/%s", folder, name) < sizeof path &&
           access(path, F_OK) == 0;
}

static enum edgept_status start_onnxruntime(struct edgept_bundle *bundle, struct edgept_error *error)
{
    const OrtApiBase *base = OrtGetApiBase();
    bundle->api = base->GetApi(MIN_API);
    if (bundle->api == NULL)
        return edgept_fail(error, EDGEPT_FAILED, "",
                           "onnxruntime %s is too old, this library needs 1.%d. Install a newer one.",
                           base->GetVersionString(), MIN_API);
    enum edgept_status status = edgept_graph_check(
        bundle->api, bundle->api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "edgept", &bundle->env), error);
    if (status == EDGEPT_OK)
        status = edgept_graph_check(
            bundle->api,
            bundle->api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &bundle->memory), error);
    return status;
}

static enum edgept_status open_graphs(struct edgept_bundle *bundle, const char *folder,
                                      const struct edgept_bundle_options *options,
                                      struct edgept_error *error)
{
    /* each graph, with the file of its weights */
    static const char *const one[] = {"model.onnx", "model.onnx.data", TABLE_NAME, NULL};
    static const char *const two[] = {"encoder.onnx", "encoder.onnx.data", "decoder.onnx",
                                      "decoder.onnx.data", TABLE_NAME, NULL};
    const char *const *names = has_file(folder, "encoder.onnx") ? two : one;
    size_t graphs = names == two ? 2 : 1;
    const char *needed[6] = {NULL}; /* that edgept.sha256 must list: what is read */
    for (size_t i = 0; i < 2 * graphs + (has_file(folder, TABLE_NAME) ? 1 : 0); i++)
        needed[i] = names[i];
    enum edgept_status status = EDGEPT_OK;
    if (!has_file(folder, names[0]))
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "no bundle at %s: it holds no model.onnx. Make one with 'edgept export MODEL'.",
                           folder);
    if (options->check_hashes || options->sha256 != NULL)
        status = edgept_hashes_check(folder, options->sha256, needed, error);
    for (; status == EDGEPT_OK && bundle->graph_count < graphs; names += 2) {
        char path[MAX_PATH_BYTES];
        snprintf(path, sizeof path, "%s/%s", folder, names[0]);
        status = edgept_graph_guard(folder, names[0], names[1], error);
        if (status == EDGEPT_OK)
            status = edgept_graph_open(&bundle->graphs[bundle->graph_count++], bundle->api, bundle->env,
                                       bundle->memory, path, options, error);
    }
    return status;
}

static bool are_below(const struct edgept_ids *ids, size_t width)
{
    for (size_t i = 0; i < ids->count; i++)
        if (ids->ids[i] >= (int64_t)width)
            return false;
    return true;
}

/* Whether an encoder-decoder's rules name tokens that there are. */
static bool rules_fit(const struct edgept_facts *facts, size_t width)
{
    const struct edgept_rules *rules = &facts->rules;
    return facts->task != EDGEPT_SEQ2SEQ ||
           (!facts->shares_buffer && rules->start_token_id < (int64_t)facts->vocab_size &&
            rules->start_token_id < (int64_t)width && /* the rules look back at it, and forbid it */
            rules->forced_bos_token_id < (int64_t)width && are_below(&rules->forced_eos_token_ids, width) &&
            are_below(&rules->bad_words, width) && are_below(&rules->begin_suppress_tokens, width) &&
            are_below(&facts->eos_token_ids, width));
}

/* Whether there are as many class names as classes, and as many layers as the graph can have. */
static bool sizes_fit(const struct edgept_facts *facts, const struct edgept_graph *graph)
{
    return (facts->labels.count == 0 || graph->output_width == 0 ||
            facts->labels.count == graph->output_width) &&
           (facts->prefix_only || facts->layers <= graph->input_count / 2);
}

/* That a pair's second graph says it is of the first one's model: another would run, and be wrong. */
static enum edgept_status check_fingerprints(const struct edgept_bundle *bundle, struct edgept_error *error)
{
    enum edgept_status status = EDGEPT_OK;
    for (size_t i = 1; status == EDGEPT_OK && i < bundle->graph_count; i++) {
        char *found = NULL;
        status = edgept_graph_metadata(&bundle->graphs[i], "edgept.fingerprint", &found, error);
        if (status == EDGEPT_OK && (found == NULL || strcmp(found, bundle->facts.fingerprint) != 0))
            status = edgept_fail(error, EDGEPT_INVALID_FILE, "manifest-malformed",
                                 "the bundle's graphs are not of one export. Copy the bundle again, or export "
                                 "again.");
        free(found);
    }
    return status;
}

static enum edgept_status check_facts(struct edgept_bundle *bundle,
                                      const struct edgept_bundle_options *options,
                                      struct edgept_error *error)
{
    const struct edgept_facts *facts = &bundle->facts;
    bool is_pair = facts->task == EDGEPT_SEQ2SEQ, has_width = edgept_last_graph(bundle)->output_width != 0;
    if (is_pair != (bundle->graph_count == 2) || edgept_last_graph(bundle)->output_name == NULL ||
        (facts->head_size == 0 && !has_width) || !rules_fit(facts, edgept_last_graph(bundle)->output_width) ||
        !sizes_fit(facts, edgept_last_graph(bundle)))
        return edgept_fail(error, EDGEPT_INVALID_FILE, "manifest-malformed",
                           "the graphs are not those of a bundle for %s. Export again.", facts->task_name);
    bundle->max_length = options->max_length == 0 ? facts->max_positions : options->max_length;
    if (options->max_length != 0 && facts->task == EDGEPT_SEEING)
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "max_length is for texts; a picture's patches are as many as they are. Leave it 0.");
    if (bundle->max_length > facts->max_positions)
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "max_length is %zu; the model was made for sequences of 1 to %zu tokens.",
                           options->max_length, facts->max_positions);
    bundle->session_bytes = options->session_bytes == 0 ? SIZE_MAX : options->session_bytes;
    return EDGEPT_OK;
}

static enum edgept_status name_cache(struct edgept_bundle *bundle, struct edgept_error *error)
{
    static const char *const sides[] = {"past_key_values", "present", "past_key_values", "present"};
    bool is_pair = bundle->facts.task == EDGEPT_SEQ2SEQ;
    size_t tensors = bundle->facts.prefix_only ? 0 : 2 * bundle->facts.layers; /* one input takes all */
    bundle->cache_names = calloc(4 * tensors + 1, sizeof *bundle->cache_names);
    if (bundle->cache_names == NULL)
        return edgept_no_memory(error, "a bundle");
    for (size_t i = 0; i < 4 * tensors; i++) {
        size_t side = i / tensors, part = i % tensors;
        const char *attention = !is_pair ? "" : side < 2 ? ".decoder" : ".encoder";
        snprintf(bundle->cache_names[i], EDGEPT_CACHE_NAME_BYTES, "%s.%zu%s.%s", sides[side], part / 2,
                 attention, part % 2 ? "value" : "key");
    }
    return EDGEPT_OK;
}

enum edgept_status edgept_bundle_open(const char *folder, const struct edgept_bundle_options *options,
                                      struct edgept_bundle **out, struct edgept_error *error)
{
    static const struct edgept_bundle_options defaults = {.threads = 0};
    double started = edgept_now_ms();
    struct edgept_bundle *bundle = calloc(1, sizeof *bundle);
    if (bundle == NULL)
        return edgept_no_memory(error, "a bundle");
    if (options == NULL)
        options = &defaults;
    enum edgept_status status = start_onnxruntime(bundle, error);
    if (status == EDGEPT_OK)
        status = open_graphs(bundle, folder, options, error);
    if (status == EDGEPT_OK)
        status = edgept_facts_read(&bundle->graphs[0], &bundle->facts, error);
    if (status == EDGEPT_OK)
        status = check_facts(bundle, options, error);
    if (status == EDGEPT_OK)
        status = check_fingerprints(bundle, error);
    if (status == EDGEPT_OK)
        status = name_cache(bundle, error);
    if (status == EDGEPT_OK && bundle->facts.task != EDGEPT_SEEING && has_file(folder, TABLE_NAME))
        status = edgept_text_open(bundle, folder, TABLE_NAME, error);
    bundle->load_ms = edgept_now_ms() - started;
    if (status)
        edgept_bundle_free(bundle);
    else
        *out = bundle;
    return status;
}

void edgept_bundle_free(struct edgept_bundle *bundle)
{
    if (bundle == NULL)
        return;
    for (size_t i = 0; i < bundle->graph_count; i++)
        edgept_graph_close(&bundle->graphs[i]);
    if (bundle->memory != NULL)
        bundle->api->ReleaseMemoryInfo(bundle->memory);
    if (bundle->env != NULL)
        bundle->api->ReleaseEnv(bundle->env);
    edgept_facts_free(&bundle->facts);
    edgept_tokenizer_free(bundle->tokenizer);
    free(bundle->table);
    free(bundle->cache_names);
    free(bundle);
}

const char *edgept_bundle_task(const struct edgept_bundle *bundle)
{
    return bundle->facts.task_name;
}

const char *edgept_bundle_fingerprint(const struct edgept_bundle *bundle)
{
    return bundle->facts.fingerprint;
}

size_t edgept_bundle_vocab_size(const struct edgept_bundle *bundle)
{
    return bundle->facts.vocab_size;
}

size_t edgept_bundle_hidden_size(const struct edgept_bundle *bundle)
{
    return bundle->facts.hidden_size;
}

size_t edgept_bundle_max_length(const struct edgept_bundle *bundle)
{
    return bundle->max_length;
}

const struct edgept_image *edgept_bundle_image(const struct edgept_bundle *bundle)
{
    return bundle->facts.task == EDGEPT_SEEING ? &bundle->facts.image : NULL;
}

double edgept_bundle_load_ms(const struct edgept_bundle *bundle)
{
    return bundle->load_ms;
}
