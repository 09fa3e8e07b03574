/* prompt.c - from a prompt file to a prompt that is resident: it fits, and its keys and values are there. */
#include "prompt.h"

#include <stdlib.h>
#include <string.h>

#include "effect.h"
#include "error.h"
#include "half.h"
#include "session.h"

/* Memory of `count` values of the graph's, with a tensor's in it; what the tensor has not is 0. */
static void *keep(struct edgept_prompt *prompt, const struct edgept_tensor *tensor, size_t count)
{
    size_t bytes = count * edgept_float_bytes(prompt->bundle);
    void *kept = calloc(1, bytes);
    if (kept == NULL)
        return NULL;
    prompt->bytes += bytes;
    if (tensor != NULL)
        edgept_half_store(kept, tensor->values, tensor->count, prompt->bundle->facts.is_half);
    return kept;
}

static enum edgept_status keep_head(struct edgept_prompt *prompt, const struct edgept_prompt_file *file,
                                    struct edgept_error *error)
{
    const struct edgept_tensor *tensors = file->tensors;
    if (tensors[EDGEPT_HEAD_WEIGHT].values == NULL)
        return EDGEPT_OK;
    prompt->classes = tensors[EDGEPT_HEAD_WEIGHT].shape[0];
    for (size_t i = EDGEPT_HEAD_WEIGHT; i < EDGEPT_TENSOR_NAMES; i++) {
        const struct edgept_tensor *tensor = tensors[i].values == NULL ? NULL : &tensors[i];
        if (tensor == NULL && i != EDGEPT_HEAD_BIAS) /* a head without a bias gets zeros */
            continue;
        prompt->head[i] = keep(prompt, tensor, tensor == NULL ? prompt->classes : tensor->count);
        if (prompt->head[i] == NULL)
            return edgept_no_memory(error, "a prompt's head");
    }
    if (edgept_labels_copy(&file->labels, prompt->classes, &prompt->labels))
        return edgept_no_memory(error, "a prompt's labels");
    return EDGEPT_OK;
}

/* Its rows, and its keys and values: computed once, or the prompt itself. */
static enum edgept_status keep_inputs(struct edgept_prompt *prompt, const struct edgept_prompt_file *file,
                                      struct edgept_error *error)
{
    const struct edgept_facts *facts = &prompt->bundle->facts;
    const struct edgept_tensor *rows = &file->tensors[EDGEPT_PROMPT_EMBEDS];
    const struct edgept_tensor *kv = &file->tensors[EDGEPT_PROMPT_KV];
    size_t kv_count = 2 * facts->layers * facts->kv_heads * prompt->virtual_tokens * facts->head_dim;
    bool computes = rows->values != NULL && facts->has_cache && facts->task != EDGEPT_SEQ2SEQ &&
                    !facts->depends_on_length && !facts->prefix_only;
    if (rows->values != NULL) {
        prompt->rows = keep(prompt, rows, rows->count);
        if (prompt->rows == NULL)
            return edgept_no_memory(error, "a prompt's rows");
    }
    if (kv->values == NULL && !computes)
        return EDGEPT_OK;
    prompt->kv = keep(prompt, kv->values == NULL ? NULL : kv, kv_count);
    if (prompt->kv == NULL)
        return edgept_no_memory(error, "a prompt's keys and values");
    if (!computes)
        return EDGEPT_OK;
    struct edgept_session *session = NULL;
    enum edgept_status status = edgept_session_create(prompt->bundle, &session, error);
    if (status == EDGEPT_OK)
        status = edgept_session_keys_and_values(session, prompt, error);
    edgept_session_free(session);
    return status;
}

enum edgept_status edgept_prompt_bind(struct edgept_bundle *bundle, const struct edgept_prompt_file *file,
                                      struct edgept_prompt **out, struct edgept_error *error)
{
    double started = edgept_now_ms();
    const struct edgept_tensor *rows = &file->tensors[EDGEPT_PROMPT_EMBEDS];
    const struct edgept_tensor *kv = &file->tensors[EDGEPT_PROMPT_KV];
    size_t virtual_tokens = rows->values != NULL ? rows->shape[rows->rank - 2]
                            : kv->values != NULL ? kv->shape[3]
                                                 : 0;
    enum edgept_status status = edgept_prompt_check_fits(bundle, file, virtual_tokens, error);
    if (status)
        return status;
    struct edgept_prompt *prompt = calloc(1, sizeof *prompt);
    if (prompt == NULL)
        return edgept_no_memory(error, "a prompt");
    prompt->bundle = bundle;
    prompt->number = atomic_fetch_add(&bundle->prompts, 1) + 1;
    prompt->virtual_tokens = virtual_tokens;
    prompt->tables = rows->rank == 3 ? rows->shape[0] : 1;
    prompt->image_task = edgept_prompt_image_task(&bundle->facts, file);
    const char *name = edgept_prompt_file_metadata(file, "name");
    size_t name_bytes = strlen(name) + 1;
    prompt->name = malloc(name_bytes);
    if (prompt->name == NULL)
        status = edgept_no_memory(error, "a prompt");
    else
        memcpy(prompt->name, name, name_bytes);
    if (status == EDGEPT_OK)
        status = keep_head(prompt, file, error);
    if (status == EDGEPT_OK)
        status = keep_inputs(prompt, file, error);
    if (status == EDGEPT_OK)
        status = edgept_effect_check(bundle, prompt, error);
    prompt->load_ms = edgept_now_ms() - started;
    if (status)
        edgept_prompt_free(prompt);
    else
        *out = prompt;
    return status;
}

enum edgept_status edgept_prompt_load(struct edgept_bundle *bundle, const char *path,
                                      struct edgept_prompt **out, struct edgept_error *error)
{
    double started = edgept_now_ms();
    struct edgept_prompt_file *file = NULL;
    struct edgept_prompt *prompt = NULL;
    enum edgept_status status = edgept_prompt_file_read(path, 0, &file, error);
    if (status == EDGEPT_OK)
        status = edgept_prompt_bind(bundle, file, &prompt, error);
    edgept_prompt_file_free(file);
    if (status)
        return status;
    prompt->load_ms = edgept_now_ms() - started;
    *out = prompt;
    return EDGEPT_OK;
}

void edgept_prompt_free(struct edgept_prompt *prompt)
{
    if (prompt == NULL)
        return;
    for (size_t i = 0; i < EDGEPT_TENSOR_NAMES; i++)
        free(prompt->head[i]);
    free(prompt->labels.names);
    free(prompt->rows);
    free(prompt->kv);
    free(prompt->name);
    free(prompt);
}

const char *edgept_prompt_name(const struct edgept_prompt *prompt)
{
    return prompt->name;
}

const char *edgept_prompt_task(const struct edgept_prompt *prompt)
{
    const struct edgept_facts *facts = &prompt->bundle->facts;
    return facts->task == EDGEPT_SEEING ? edgept_image_task_names[prompt->image_task] : facts->task_name;
}

size_t edgept_prompt_virtual_tokens(const struct edgept_prompt *prompt)
{
    return prompt->virtual_tokens;
}

size_t edgept_prompt_bytes(const struct edgept_prompt *prompt)
{
    return prompt->bytes;
}

double edgept_prompt_load_ms(const struct edgept_prompt *prompt)
{
    return prompt->load_ms;
}
