/*
 * measure.c - what the library itself takes from a program's start to its first request: time and memory.
 *
 *     measure BUNDLE PROMPT [THREADS [FILE]]   one object of JSON; STARTED_NS: when the process was started
 *
 * FILE is a prompt file that is only read; without it, PROMPT is.
 *
 * benchmarks/c_runtime.py runs it. OrtGetApiBase is wrapped, so that the time in which onnxruntime creates
 * its sessions and runs them is known apart; malloc and its like are wrapped, so that the library's own
 * memory is counted to the byte.
 */
#define _GNU_SOURCE
#include <edgept.h>
#include <onnxruntime_c_api.h>

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

static double now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* ---- memory: one thread allocates ---- */

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void __real_free(void *memory);

static size_t live, peak;

static void *count(void *memory)
{
    live += memory == NULL ? 0 : malloc_usable_size(memory);
    peak = live > peak ? live : peak;
    return memory;
}

void *__wrap_malloc(size_t size)
{
    return count(__real_malloc(size));
}

void *__wrap_calloc(size_t items, size_t size)
{
    return count(__real_calloc(items, size));
}

void *__wrap_realloc(void *old, size_t size)
{
    live -= old == NULL ? 0 : malloc_usable_size(old);
    return count(__real_realloc(old, size));
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return count(__real_aligned_alloc(alignment, size));
}

void __wrap_free(void *memory)
{
    live -= memory == NULL ? 0 : malloc_usable_size(memory);
    __real_free(memory);
}

/* ---- onnxruntime's time ---- */

const OrtApiBase *__real_OrtGetApiBase(void);
const OrtApiBase *__wrap_OrtGetApiBase(void);

static const OrtApi *real;
static OrtApi timed;
static double session_ms, run_ms;

static OrtStatus *ORT_API_CALL create_env(OrtLoggingLevel level, const char *name, OrtEnv **env) NO_EXCEPTION
{
    double begin = now_ms();
    OrtStatus *status = real->CreateEnv(level, name, env);
    session_ms += now_ms() - begin;
    return status;
}

static OrtStatus *ORT_API_CALL create_session(const OrtEnv *env, const char *path, const OrtSessionOptions *options,
                                              OrtSession **session) NO_EXCEPTION
{
    double begin = now_ms();
    OrtStatus *status = real->CreateSession(env, path, options, session);
    session_ms += now_ms() - begin;
    return status;
}

static OrtStatus *ORT_API_CALL run(OrtSession *session, const OrtRunOptions *options, const char *const *names,
                                   const OrtValue *const *inputs, size_t input_count, const char *const *output_names,
                                   size_t output_count, OrtValue **outputs) NO_EXCEPTION
{
    double begin = now_ms();
    OrtStatus *status =
        real->Run(session, options, names, inputs, input_count, output_names, output_count, outputs);
    run_ms += now_ms() - begin;
    return status;
}

static const OrtApi *ORT_API_CALL get_api(uint32_t version) NO_EXCEPTION
{
    real = __real_OrtGetApiBase()->GetApi(version);
    if (real == NULL)
        return NULL;
    timed = *real;
    timed.CreateEnv = create_env;
    timed.CreateSession = create_session;
    timed.Run = run;
    return &timed;
}

const OrtApiBase *__wrap_OrtGetApiBase(void)
{
    static OrtApiBase base;
    base = *__real_OrtGetApiBase();
    base.GetApi = get_api;
    return &base;
}

/* ---- a program ---- */

static void require(enum edgept_status status, const struct edgept_error *error)
{
    if (status) {
        fprintf(stderr, "measure: %s\n", error->message);
        exit((int)status);
    }
}

int main(int argc, char **argv)
{
    double main_ms = now_ms();
    const char *started = getenv("STARTED_NS");
    double process_ms = started == NULL ? main_ms : atof(started) / 1e6;
    struct edgept_bundle *bundle = NULL;
    struct edgept_prompt *prompt = NULL;
    struct edgept_session *session = NULL;
    struct edgept_prompt_file *file = NULL;
    struct edgept_error error = {"", ""};
    struct stat facts;
    const char *read = argc > 4 ? argv[4] : argc > 2 ? argv[2] : "";
    if (stat(read, &facts) != 0) {
        fputs("usage: measure BUNDLE PROMPT [THREADS [FILE]]\n", stderr);
        return EDGEPT_USAGE;
    }
    struct edgept_bundle_options options = {.threads = argc > 3 ? atoi(argv[3]) : 1};
    require(edgept_bundle_open(argv[1], &options, &bundle, &error), &error);
    double opened_ms = now_ms();
    size_t open_peak = peak, open_live = live;
    peak = live;
    require(edgept_prompt_load(bundle, argv[2], &prompt, &error), &error);
    size_t load_peak = peak - open_live;
    require(edgept_session_create(bundle, &session, &error), &error);
    double ready_ms = now_ms(), prompt_run_ms = run_ms;
    size_t before = live;
    peak = live;
    require(edgept_prompt_file_read(read, 0, &file, &error), &error);
    size_t read_peak = peak - before;
    printf("{\"to_main_ms\": %.4f, \"start_to_ready_ms\": %.4f, \"session_ms\": %.4f, \"run_ms\": %.4f, "
           "\"own_ms\": %.4f, \"own_open_ms\": %.4f, \"read_file_bytes\": %lld, \"read_peak_bytes\": %zu, "
           "\"load_peak_bytes\": %zu, \"open_peak_bytes\": %zu}\n",
           main_ms - process_ms, ready_ms - process_ms, session_ms, prompt_run_ms,
           ready_ms - main_ms - session_ms - prompt_run_ms, opened_ms - main_ms - session_ms,
           (long long)facts.st_size, read_peak, load_peak, open_peak);
    edgept_prompt_file_free(file);
    edgept_session_free(session);
    edgept_prompt_free(prompt);
    edgept_bundle_free(bundle);
    return 0;
}
