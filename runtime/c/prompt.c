/* prompt.c - from a prompt file to a prompt that is resident: it fits, and its keys and values are there. */
#include "prompt.h"

#include <stdlib.h>
#include <string.h>

#include "effect.h"
#include "error.h"
#include "half.h"
#include "session.h"

static const char *value_of(const struct edgept_prompt_file *file, const char *key)
{
    return edgept_prompt_file_metadata(file, key);
}

static enum edgept_status unfit(struct edgept_error *error, const struct edgept_prompt_file *file,
                                const char *found)
{
    return edgept_fail(error, EDGEPT_INCOMPATIBLE, "",
                       "prompt '%s': %s. Use the bundle that it was trained for, or pack it again.",
                       value_of(file, "name"), found);
}

/* Whether a tensor has the shape that the bundle takes; 0 stands for any number. */
static bool has_shape(const struct edgept_tensor *tensor, size_t rank, const size_t *shape)
{
    for (size_t i = 0; i < rank && tensor->rank == rank; i++)
        if (shape[i] != 0 && tensor->shape[i] != shape[i])
            return false;
    return tensor->rank == rank;
}

/* What an image model's prompt is for; EDGEPT_IMAGE_FEATURES: nothing that this bundle does. */
static enum edgept_image_task find_image_task(const struct edgept_facts *facts,
                                              const struct edgept_prompt_file *file)
{
    static const char *const names[] = {"image-classification", "image-segmentation", "object-detection"};
    size_t task = facts->image.patches_detect ? EDGEPT_OBJECT_DETECTION : EDGEPT_IMAGE_CLASSIFICATION;
    while (task < EDGEPT_IMAGE_FEATURES && strcmp(value_of(file, "task"), names[task]) != 0)
        task++;
    return (enum edgept_image_task)task;
}

/* Whether it finds things by virtual tokens, and so brings what reads their boxes. */
static bool reads_boxes(const struct edgept_facts *facts, const struct edgept_prompt_file *file)
{
    return facts->task == EDGEPT_SEEING && !facts->image.patches_detect &&
           find_image_task(facts, file) == EDGEPT_OBJECT_DETECTION;
}

/* Whether each tensor is one that the bundle takes, in its shape. */
static enum edgept_status check_shapes(const struct edgept_facts *facts,
                                       const struct edgept_prompt_file *file, struct edgept_error *error)
{
    bool sees = facts->task == EDGEPT_SEEING, boxes = reads_boxes(facts, file);
    /* rows of an image model: before the first layer, or before every one */
    size_t tables = file->tensors[EDGEPT_PROMPT_EMBEDS].shape[0] == 1 ? 1 : facts->image.layers;
    const size_t shapes[EDGEPT_TENSOR_NAMES][EDGEPT_MAX_RANK] = {
        {sees ? tables : 0, sees ? 0 : facts->hidden_size, facts->hidden_size},
        {facts->layers, 2, facts->kv_heads, 0, facts->head_dim},
        {0, facts->head_size},
        {0},
        {facts->head_size, facts->head_size},
        {facts->head_size},
        {4, facts->head_size},
        {4}};
    const size_t ranks[] = {sees ? 3 : 2, 5, 2, 1, 2, 1, 2, 1};
    for (size_t i = 0; i < EDGEPT_TENSOR_NAMES; i++) {
        bool is_taken = i == EDGEPT_PROMPT_EMBEDS || (i == EDGEPT_PROMPT_KV && facts->has_cache) ||
                        (i > EDGEPT_PROMPT_KV && facts->head_size != 0 &&
                         (i <= EDGEPT_HEAD_BIAS || (i >= EDGEPT_BOX_WEIGHT && boxes) ||
                          (facts->head_is_dense && i <= EDGEPT_HEAD_DENSE_BIAS)));
        if (file->tensors[i].values == NULL)
            continue;
        if (!is_taken || !has_shape(&file->tensors[i], ranks[i], shapes[i]))
            return edgept_fail(error, EDGEPT_INCOMPATIBLE, "",
                               "prompt '%s': this bundle takes no %s%s. It was trained for another model.",
                               value_of(file, "name"), edgept_tensor_names[i], is_taken ? " of this shape" : "");
    }
    return EDGEPT_OK;
}

static bool same_labels(const struct edgept_labels *left, const struct edgept_labels *right)
{
    for (size_t i = 0; i < left->count && left->count == right->count; i++)
        if (strcmp(left->names[i], right->names[i]) != 0)
            return false;
    return left->count == right->count;
}

static enum edgept_status check_head(const struct edgept_facts *facts,
                                     const struct edgept_prompt_file *file, struct edgept_error *error)
{
    const struct edgept_tensor *weight = &file->tensors[EDGEPT_HEAD_WEIGHT];
    if (weight->values == NULL) { /* a bias or a first layer alone breaks the format's rules already */
        if (facts->labels.count == 0)
            return unfit(error, file, "it has no head, and the model has none of its own");
        if (!same_labels(&file->labels, &facts->labels))
            return unfit(error, file, "it was bound to a head with other classes than the model's own");
        return EDGEPT_OK;
    }
    if (facts->head_is_dense && file->tensors[EDGEPT_HEAD_DENSE_WEIGHT].values == NULL)
        return unfit(error, file, "its head has one layer, the model's has two");
    bool finds = facts->task == EDGEPT_SEEING && find_image_task(facts, file) == EDGEPT_OBJECT_DETECTION;
    if (weight->shape[0] < 2 && !finds)
        return unfit(error, file, "its head has one class; one for regression is not run");
    if (strcmp(facts->task_name, "question-answering") == 0 && weight->shape[0] != 2)
        return unfit(error, file, "its head has other rows than where an answer starts and ends");
    return EDGEPT_OK;
}

/* Whether an image model's prompt has what its task reads. */
static enum edgept_status check_parts(const struct edgept_facts *facts,
                                      const struct edgept_prompt_file *file, struct edgept_error *error)
{
    const struct edgept_tensor *tensors = file->tensors;
    if (facts->task != EDGEPT_SEEING || find_image_task(facts, file) == EDGEPT_IMAGE_CLASSIFICATION)
        return EDGEPT_OK;
    if (reads_boxes(facts, file) && (tensors[EDGEPT_PROMPT_EMBEDS].values == NULL ||
                                     tensors[EDGEPT_BOX_WEIGHT].values == NULL))
        return unfit(error, file, "to detect it needs prompt_embeds, head.weight and box.*");
    return tensors[EDGEPT_HEAD_WEIGHT].values != NULL
               ? EDGEPT_OK
               : unfit(error, file, "it lacks head.weight, which reads a patch's class");
}

/* Whether every value stays finite in float16. */
static bool fits_half(const struct edgept_tensor *tensor)
{
    for (size_t i = 0; i < tensor->count; i++)
        if ((edgept_half_narrow(tensor->values[i]) & 0x7C00) == 0x7C00)
            return false;
    return true;
}

static enum edgept_status check_fits(const struct edgept_bundle *bundle,
                                     const struct edgept_prompt_file *file, size_t virtual_tokens,
                                     struct edgept_error *error)
{
    const struct edgept_facts *facts = &bundle->facts;
    const struct edgept_tensor *tensors = file->tensors;
    int inputs = (tensors[EDGEPT_PROMPT_EMBEDS].values != NULL) + (tensors[EDGEPT_PROMPT_KV].values != NULL);
    if (strcmp(value_of(file, "fingerprint"), facts->fingerprint) != 0)
        return edgept_fail(error, EDGEPT_INCOMPATIBLE, "",
                           "prompt '%s' was made for another model: its fingerprint is %.12s..., this "
                           "bundle's is %.12s.... Use the bundle of its own model, or retrain it.",
                           value_of(file, "name"), value_of(file, "fingerprint"), facts->fingerprint);
    bool is_for_this = facts->task == EDGEPT_SEEING ? find_image_task(facts, file) != EDGEPT_IMAGE_FEATURES
                                                    : strcmp(value_of(file, "task"), facts->task_name) == 0;
    if (!is_for_this)
        return edgept_fail(error, EDGEPT_INCOMPATIBLE, "",
                           "prompt '%s' is for the task %s, this bundle was exported for %s.",
                           value_of(file, "name"), value_of(file, "task"), facts->task_name);
    enum edgept_status status = check_shapes(facts, file, error);
    if (status == EDGEPT_OK && facts->head_size != 0)
        status = check_head(facts, file, error);
    if (status == EDGEPT_OK)
        status = check_parts(facts, file, error);
    if (status)
        return status;
    if (inputs > 1 || (facts->head_size == 0 && inputs == 0))
        return unfit(error, file, "a bundle takes either prompt_embeds or prompt_kv");
    if (virtual_tokens > facts->max_virtual_tokens || virtual_tokens >= bundle->max_length)
        return edgept_fail(error, EDGEPT_INCOMPATIBLE, "",
                           "prompt '%s' has %zu virtual tokens; this bundle allows %zu, and sequences of %zu "
                           "here. Export again with --max-virtual-tokens.",
                           value_of(file, "name"), virtual_tokens, facts->max_virtual_tokens,
                           bundle->max_length);
    for (size_t i = 0; facts->is_half && i < EDGEPT_TENSOR_NAMES; i++)
        if (!fits_half(&tensors[i]))
            return unfit(error, file, "a value is not finite in float16, the bundle's float type");
    return EDGEPT_OK;
}

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
    enum edgept_status status = check_fits(bundle, file, virtual_tokens, error);
    if (status)
        return status;
    struct edgept_prompt *prompt = calloc(1, sizeof *prompt);
    if (prompt == NULL)
        return edgept_no_memory(error, "a prompt");
    prompt->bundle = bundle;
    prompt->number = atomic_fetch_add(&bundle->prompts, 1) + 1;
    prompt->virtual_tokens = virtual_tokens;
    prompt->tables = rows->rank == 3 ? rows->shape[0] : 1;
    prompt->image_task = find_image_task(&bundle->facts, file);
    size_t name = strlen(value_of(file, "name")) + 1;
    prompt->name = malloc(name);
    if (prompt->name == NULL)
        status = edgept_no_memory(error, "a prompt");
    else
        memcpy(prompt->name, value_of(file, "name"), name);
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
