/*
 * check.c - what only a C program can see of the library: its own allocations, and threads.
 *
 *     check allocations BUNDLE PROMPT...   none after warm-up; each one failed in turn, nothing lost
 *     check threads BUNDLE PROMPT...       4 threads, SWAPS (environment; 400) prompts in turn: no mixed output,
 *                                          and memory grows by at most LIMIT_KB, if that is set
 *
 * Linked with --wrap for malloc, calloc, realloc, aligned_alloc and free, so that the library's own calls
 * come here first; onnxruntime's do not.
 */
#include <edgept.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_PROMPTS 8
#define NEW_TOKENS 24 /* of a request; TOKENS in the environment */
#define GROWING_STEPS 80 /* more than the columns that a cache has at first */
#define THREADS 4

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void __real_free(void *memory);

static atomic_long allocations, live, fail_at; /* fail_at: which allocation fails; 0: none */

static int fails(void)
{
    long number = atomic_fetch_add(&allocations, 1) + 1;
    return number == atomic_load(&fail_at);
}

static void *count(void *memory)
{
    if (memory != NULL)
        atomic_fetch_add(&live, 1);
    return memory;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : count(__real_malloc(size));
}

void *__wrap_calloc(size_t items, size_t size)
{
    return fails() ? NULL : count(__real_calloc(items, size));
}

void *__wrap_realloc(void *old, size_t size)
{
    if (fails())
        return NULL;
    return old == NULL ? count(__real_realloc(old, size)) : __real_realloc(old, size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return fails() ? NULL : count(__real_aligned_alloc(alignment, size));
}

void __wrap_free(void *memory)
{
    if (memory != NULL)
        atomic_fetch_sub(&live, 1);
    __real_free(memory);
}

static void require(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "check: %s\n", what);
        exit(1);
    }
}

/* ---- one program ---- */

static const int64_t text[] = {5, 9, 77, 130, 200, 31, 4};
#define TEXT (sizeof text / sizeof *text)

static size_t new_tokens(void)
{
    const char *wanted = getenv("TOKENS");
    return wanted == NULL ? NEW_TOKENS : (size_t)atol(wanted);
}

/* Whatever a prompt does with a grey picture; without features, and with them. */
static enum edgept_status look(struct edgept_bundle *bundle, struct edgept_session *session,
                               struct edgept_prompt *prompt, uint64_t *result, struct edgept_error *error)
{
    static const float pixels[3 * 32 * 32];
    const struct edgept_image *image = edgept_bundle_image(bundle);
    enum edgept_status status = EDGEPT_OK;
    require(image->height * image->width <= 32 * 32, "the checks are for pictures of 32 x 32");
    for (int features = EDGEPT_NO_FEATURES; status == EDGEPT_OK && features <= EDGEPT_WITH_FEATURES; features++) {
        struct edgept_sight sight;
        struct edgept_classification classes;
        struct edgept_segmentation segments;
        struct edgept_detections things;
        status = edgept_session_see(session, prompt, pixels, (enum edgept_features)features, &sight, error);
        if (status)
            return status;
        if (sight.task == EDGEPT_IMAGE_CLASSIFICATION)
            status = edgept_sight_classify(session, &sight, &classes, error);
        else if (sight.task == EDGEPT_IMAGE_SEGMENTATION)
            status = edgept_sight_segment(session, &sight, &segments, error);
        else
            status = edgept_sight_detect(session, &sight, 0, &things, error);
        for (size_t i = 0; status == EDGEPT_OK && i < sight.positions * sight.classes; i++) {
            uint32_t bits;
            memcpy(&bits, &sight.logits[i], sizeof bits);
            *result = (*result ^ bits) * 1099511628211u;
        }
    }
    return status;
}

static int add_piece(void *user, const char *piece)
{
    uint64_t *result = user;
    for (; *piece != '\0'; piece++)
        *result = (*result ^ (unsigned char)*piece) * 1099511628211u;
    return 0;
}

/* The same in text, where the bundle has a tokenizer. */
static enum edgept_status ask_in_text(struct edgept_session *session, struct edgept_prompt *prompt,
                                      uint64_t *result, struct edgept_error *error)
{
    struct edgept_generate_options options = {.max_new_tokens = new_tokens(), .on_text = add_piece, .user = result};
    struct edgept_generation said;
    struct edgept_text tokens;
    enum edgept_status status = edgept_session_encode(session, "where is my parcel?", NULL, 1, &tokens, error);
    if (status == EDGEPT_USAGE)
        return EDGEPT_OK;
    if (status == EDGEPT_OK)
        status = edgept_session_ask(session, prompt, "where is my parcel?", &options, &said, error);
    if (status == EDGEPT_OK)
        add_piece(result, said.text);
    return status;
}

/* A request of whatever the bundle is for; a number that stands for its result. */
static enum edgept_status ask(struct edgept_bundle *bundle, struct edgept_session *session,
                              struct edgept_prompt *prompt, uint64_t *result, struct edgept_error *error)
{
    const char *task = edgept_bundle_task(bundle);
    enum edgept_status status;
    *result = 1469598103934665603u;
    if (strcmp(task, "text-classification") == 0) {
        struct edgept_classification found;
        status = edgept_session_classify(session, prompt, text, NULL, TEXT, &found, error);
        for (size_t i = 0; status == EDGEPT_OK && i < found.classes; i++) {
            uint32_t bits;
            memcpy(&bits, &found.logits[i], sizeof bits);
            *result = (*result ^ bits) * 1099511628211u;
        }
        return status;
    }
    if (edgept_bundle_image(bundle) != NULL)
        return look(bundle, session, prompt, result, error);
    for (int sampled = 0; sampled < 2; sampled++) {
        const int64_t stop[] = {-1};
        struct edgept_generation said;
        struct edgept_generate_options options = {
            .max_new_tokens = new_tokens(), .temperature = sampled, .top_k = 50, .top_p = 0.9, .seed = 3,
            .repetition_penalty = 1.1, .stop_ids = stop, .stop_count = 1};
        status = edgept_session_generate(session, prompt, text, TEXT, &options, &said, error);
        if (status)
            return status;
        for (size_t i = 0; i < said.count; i++)
            *result = (*result ^ (uint64_t)said.ids[i]) * 1099511628211u;
    }
    return ask_in_text(session, prompt, result, error);
}

/*
 * Begin a text and step until its cache has grown, where the bundle writes. A step whose allocation fails is
 * taken again and changes nothing; the status is then of that failure. The result stays 0 where not all ran.
 */
static enum edgept_status grow(struct edgept_bundle *bundle, struct edgept_session *session,
                               struct edgept_prompt *prompt, uint64_t *result, struct edgept_error *error)
{
    const char *task = edgept_bundle_task(bundle);
    enum edgept_status failed = EDGEPT_OK, status;
    const float *logits = NULL;
    if (strcmp(task, "text-generation") != 0 && strcmp(task, "text2text-generation") != 0)
        return EDGEPT_OK;
    uint64_t found = 1469598103934665603u;
    status = edgept_session_prefill(session, prompt, text, TEXT, &logits, error);
    for (int i = 0; status == EDGEPT_OK && i < GROWING_STEPS; i++) {
        uint32_t bits;
        status = edgept_session_step(session, text[(size_t)i % TEXT], &logits, error);
        if (status == EDGEPT_NO_MEMORY && failed == EDGEPT_OK) {
            failed = status;
            status = edgept_session_step(session, text[(size_t)i % TEXT], &logits, error);
        }
        if (status)
            return status;
        memcpy(&bits, logits, sizeof bits);
        found = (found ^ bits) * 1099511628211u;
    }
    if (status == EDGEPT_OK)
        *result = found;
    return status ? status : failed;
}

/* Open, load, ask under each prompt, let a session grow, and give everything back. */
static enum edgept_status whole_program(int count_of, char **paths, uint64_t *grown, struct edgept_error *error)
{
    struct edgept_bundle *bundle = NULL;
    struct edgept_prompt *prompts[MAX_PROMPTS] = {NULL};
    struct edgept_session *session = NULL;
    struct edgept_bundle_options options = {.threads = 1, .check_hashes = 1};
    uint64_t result;
    *grown = 0;
    enum edgept_status status = edgept_bundle_open(paths[0], &options, &bundle, error);
    for (int i = 1; status == EDGEPT_OK && i < count_of; i++)
        status = edgept_prompt_load(bundle, paths[i], &prompts[i], error);
    if (status == EDGEPT_OK)
        status = edgept_session_create(bundle, &session, error);
    for (int i = 1; status == EDGEPT_OK && i < count_of; i++)
        status = ask(bundle, session, prompts[i], &result, error);
    edgept_session_free(session);
    session = NULL;
    if (status == EDGEPT_OK)
        status = edgept_session_create(bundle, &session, error);
    if (status == EDGEPT_OK)
        status = grow(bundle, session, prompts[1], grown, error);
    edgept_session_free(session);
    for (int i = 1; i < count_of; i++)
        edgept_prompt_free(prompts[i]);
    edgept_bundle_free(bundle);
    return status;
}

static void check_allocations(int count_of, char **paths)
{
    struct edgept_error error = {"", ""};
    struct edgept_bundle *bundle = NULL;
    struct edgept_prompt *prompt = NULL;
    struct edgept_session *session = NULL;
    struct edgept_bundle_options options = {.threads = 1};
    uint64_t result, again, grown, expected;
    require(edgept_bundle_open(paths[0], &options, &bundle, &error) == EDGEPT_OK, error.message);
    require(edgept_prompt_load(bundle, paths[1], &prompt, &error) == EDGEPT_OK, error.message);
    require(edgept_session_create(bundle, &session, &error) == EDGEPT_OK, error.message);
    require(ask(bundle, session, prompt, &result, &error) == EDGEPT_OK, error.message);
    long before = atomic_load(&allocations);
    require(before > 0, "no allocation was seen: the wrapping does not work");
    for (int i = 0; i < 3; i++) {
        require(ask(bundle, session, prompt, &again, &error) == EDGEPT_OK, error.message);
        require(again == result, "the same request has another result");
    }
    long after_warm_up = atomic_load(&allocations) - before;
    edgept_session_free(session);
    edgept_prompt_free(prompt);
    edgept_bundle_free(bundle);
    require(atomic_load(&live) == 0, "memory is lost without any failure");
    require(after_warm_up == 0, "the library allocates after warm-up");

    long failed = 0;
    require(whole_program(count_of, paths, &expected, &error) == EDGEPT_OK, error.message);
    for (long number = 1;; number++) {
        atomic_store(&allocations, 0);
        atomic_store(&fail_at, number);
        memset(&error, 0, sizeof error);
        enum edgept_status status = whole_program(count_of, paths, &grown, &error);
        atomic_store(&fail_at, 0);
        require(atomic_load(&live) == 0, "memory is lost where an allocation fails");
        require(grown == 0 || grown == expected, "a step that is taken again has another result");
        if (atomic_load(&allocations) < number) {
            require(status == EDGEPT_OK, error.message);
            break;
        }
        require(status == EDGEPT_NO_MEMORY, "a failed allocation goes unnoticed");
        failed++;
    }
    printf("%s: 0 allocations in 3 requests after warm-up; %ld of %ld allocations failed in turn, nothing lost\n",
           paths[0], failed, failed);
}

/* ---- threads ---- */

struct work {
    pthread_t thread;
    struct edgept_bundle *bundle;
    struct edgept_prompt **prompts;
    const uint64_t *expected;
    int prompt_count, begin, swaps;
    long mixed;
};

static void *swap(void *argument)
{
    struct work *work = argument;
    struct edgept_session *session = NULL;
    struct edgept_error error;
    uint64_t result;
    require(edgept_session_create(work->bundle, &session, &error) == EDGEPT_OK, error.message);
    for (int i = 0; i < work->swaps; i++) {
        int which = (work->begin + i) % work->prompt_count;
        require(ask(work->bundle, session, work->prompts[which], &result, &error) == EDGEPT_OK, error.message);
        work->mixed += result != work->expected[which];
    }
    edgept_session_free(session);
    return NULL;
}

static long resident_bytes(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file != NULL) {
        if (fscanf(file, "%*d %ld", &pages) != 1)
            pages = 0;
        fclose(file);
    }
    return pages * sysconf(_SC_PAGESIZE);
}

static void check_threads(int count_of, char **paths)
{
    struct edgept_error error;
    struct edgept_bundle *bundle = NULL;
    struct edgept_prompt *prompts[MAX_PROMPTS] = {NULL};
    struct edgept_session *session = NULL;
    struct edgept_bundle_options options = {.threads = 1};
    struct work works[THREADS];
    uint64_t expected[MAX_PROMPTS];
    const char *wanted = getenv("SWAPS");
    int swaps = (wanted == NULL ? 400 : atoi(wanted)) / THREADS;
    long mixed = 0, warm = 0;
    require(edgept_bundle_open(paths[0], &options, &bundle, &error) == EDGEPT_OK, error.message);
    require(edgept_session_create(bundle, &session, &error) == EDGEPT_OK, error.message);
    for (int i = 0; i + 1 < count_of; i++) {
        require(edgept_prompt_load(bundle, paths[i + 1], &prompts[i], &error) == EDGEPT_OK, error.message);
        require(ask(bundle, session, prompts[i], &expected[i], &error) == EDGEPT_OK, error.message);
    }
    for (int round = 0; round < 2; round++) { /* the first is to warm up */
        for (int i = 0; i < THREADS; i++) {
            works[i] = (struct work){.bundle = bundle, .prompts = prompts, .expected = expected,
                                     .prompt_count = count_of - 1, .begin = i,
                                     .swaps = round == 0 ? swaps / 10 + 1 : swaps};
            require(pthread_create(&works[i].thread, NULL, swap, &works[i]) == 0, "no thread");
        }
        for (int i = 0; i < THREADS; i++) {
            pthread_join(works[i].thread, NULL);
            mixed += works[i].mixed;
        }
        if (round == 0)
            warm = resident_bytes();
    }
    long grown = resident_bytes() - warm;
    edgept_session_free(session);
    for (int i = 0; i < MAX_PROMPTS; i++)
        edgept_prompt_free(prompts[i]);
    edgept_bundle_free(bundle);
    printf("%s: %d swaps in %d threads, %ld mixed outputs, memory grew by %ld kB\n", paths[0],
           swaps * THREADS, THREADS, mixed, grown / 1024);
    require(mixed == 0, "an output is mixed");
    require(getenv("LIMIT_KB") == NULL || grown / 1024 <= atol(getenv("LIMIT_KB")), "memory grew");
    require(atomic_load(&live) == 0, "memory is lost");
}

int main(int argc, char **argv)
{
    require(argc >= 4 && argc - 2 <= MAX_PROMPTS, "usage: check allocations|threads BUNDLE PROMPT...");
    if (strcmp(argv[1], "threads") == 0)
        check_threads(argc - 2, argv + 2);
    else
        check_allocations(argc - 2, argv + 2);
    return 0;
}
