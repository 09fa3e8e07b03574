/* prompt_fits.c - whether a prompt file belongs to a bundle: its fingerprint, its task, its tensors. */
#include <string.h>

#include "error.h"
#include "half.h"
#include "prompt.h"

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

const char *const edgept_image_task_names[] = {"image-classification", "image-segmentation", "object-detection"};

enum edgept_image_task edgept_prompt_image_task(const struct edgept_facts *facts, const struct edgept_prompt_file *file)
{
    size_t task = facts->image.patches_detect ? EDGEPT_OBJECT_DETECTION : EDGEPT_IMAGE_CLASSIFICATION;
    while (task < EDGEPT_IMAGE_FEATURES && strcmp(value_of(file, "task"), edgept_image_task_names[task]) != 0)
        task++;
    return (enum edgept_image_task)task;
}

/* Whether it finds things by virtual tokens, and so brings what reads their boxes. */
static bool reads_boxes(const struct edgept_facts *facts, const struct edgept_prompt_file *file)
{
    return facts->task == EDGEPT_SEEING && !facts->image.patches_detect &&
           edgept_prompt_image_task(facts, file) == EDGEPT_OBJECT_DETECTION;
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
    bool finds = facts->task == EDGEPT_SEEING && edgept_prompt_image_task(facts, file) == EDGEPT_OBJECT_DETECTION;
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
    if (facts->task != EDGEPT_SEEING || edgept_prompt_image_task(facts, file) == EDGEPT_IMAGE_CLASSIFICATION)
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

enum edgept_status edgept_prompt_check_fits(const struct edgept_bundle *bundle, const struct edgept_prompt_file *file,
                                            size_t virtual_tokens, struct edgept_error *error)
{
    const struct edgept_facts *facts = &bundle->facts;
    const struct edgept_tensor *tensors = file->tensors;
    int inputs = (tensors[EDGEPT_PROMPT_EMBEDS].values != NULL) + (tensors[EDGEPT_PROMPT_KV].values != NULL);
    if (strcmp(value_of(file, "fingerprint"), facts->fingerprint) != 0)
        return edgept_fail(error, EDGEPT_INCOMPATIBLE, "",
                           "prompt '%s' was made for another model: its fingerprint is %.12s..., this "
                           "bundle's is %.12s.... Use the bundle of its own model, or retrain it.",
                           value_of(file, "name"), value_of(file, "fingerprint"), facts->fingerprint);
    bool is_for_this = facts->task == EDGEPT_SEEING ? edgept_prompt_image_task(facts, file) != EDGEPT_IMAGE_FEATURES
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
