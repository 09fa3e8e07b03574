/*
 * edgept-run.c - the command line: edgept-run [-b BUNDLE] [--prompt FILE] [--ids] "text", or --pixels FILE
 *
 * Results go to stdout, what is wrong to stderr; exit codes are enum edgept_status.
 */
#include <edgept.h>

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_IDS 65536
#define MAX_STOPS 16
#define THRESHOLD 0.5

static const char usage[] =
    "usage: edgept-run [OPTION]... TEXT\n"
    "       edgept-run [OPTION]... --pixels FILE\n"
    "\n"
    "Run a bundle's task on a text or a picture, under a prompt or without one.\n"
    "\n"
    "  -b, --bundle FOLDER     the bundle; default $EDGEPT_BUNDLE, then ./bundle\n"
    "      --prompt FILE       the prompt file\n"
    "      --pair TEXT         second text of a pair, for models that read\n"
    "      --ids               TEXT is token ids between spaces, and so is the answer\n"
    "      --pixels FILE       a picture: float32 (3, height, width), as the bundle's preprocessor makes it\n"
    "      --threshold T       least score of what is detected in it; default 0.5\n"
    "  -n, --max-new-tokens N  default 256\n"
    "      --temperature T     default 0, greedy\n"
    "      --top-k K, --top-p P, --repetition-penalty R, --seed S\n"
    "      --stop TEXT         end before this text; as often as wanted\n"
    "      --threads N         default: every core\n"
    "      --provider NAME     onnxruntime's execution provider; default CPUExecutionProvider\n"
    "      --check             compare every file with its hash first\n"
    "      --timings           print the latency of every phase to stderr\n"
    "  -h, --help  --version\n";

struct arguments {
    const char *bundle, *prompt, *pair, *text, *pixels, *provider;
    double threshold;
    int ids, check, timings, threads;
    const char *stops[MAX_STOPS];
    struct edgept_generate_options generate;
};

static void stop(const char *message, const char *about)
{
    fprintf(stderr, "edgept-run: %s%s. See edgept-run --help.\n", message, about);
    exit(EDGEPT_USAGE);
}

static double to_number(const char *option, const char *text)
{
    char *end;
    errno = 0;
    double number = strtod(text, &end);
    if (end == text || *end != '\0' || errno != 0 || !(number >= 0 && number <= 9e15))
        stop("no number from 0 on is behind ", option);
    return number;
}

/* A whole number in decimal digits, up to `most`. */
static uint64_t to_whole(const char *option, const char *text, uint64_t most)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || number > most)
        stop("no whole number in its range is behind ", option);
    return number;
}

/* The exit code, once all of the output is known to be written. */
static int finish(int status)
{
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == EDGEPT_OK) {
        fputs("edgept-run: the output cannot be written. Check where it goes, and the disk.\n", stderr);
        status = EDGEPT_FAILED;
    }
    return status;
}

static void parse(int argc, char **argv, struct arguments *arguments)
{
    int only_text = 0;
    for (int i = 1; i < argc; i++) {
        const char *option = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        struct edgept_generate_options *generate = &arguments->generate;
        if (only_text || option[0] != '-' || option[1] == '\0') {
            if (arguments->text != NULL)
                stop("more than one text: put it in quotes; a second one is ", option);
            arguments->text = option;
            continue;
        }
        if (strcmp(option, "--") == 0) {
            only_text = 1;
        } else if (strcmp(option, "-h") == 0 || strcmp(option, "--help") == 0) {
            fputs(usage, stdout);
            exit(finish(0));
        } else if (strcmp(option, "--version") == 0) {
            printf("edgept-run %s\n", edgept_version());
            exit(finish(0));
        } else if (strcmp(option, "--ids") == 0) {
            arguments->ids = 1;
        } else if (strcmp(option, "--check") == 0) {
            arguments->check = 1;
        } else if (strcmp(option, "--timings") == 0) {
            arguments->timings = 1;
        } else {
            if (value == NULL)
                stop("unknown option, or one without its value: ", option);
            i++;
            if (strcmp(option, "-b") == 0 || strcmp(option, "--bundle") == 0)
                arguments->bundle = value;
            else if (strcmp(option, "--prompt") == 0)
                arguments->prompt = value;
            else if (strcmp(option, "--pair") == 0)
                arguments->pair = value;
            else if (strcmp(option, "--pixels") == 0)
                arguments->pixels = value;
            else if (strcmp(option, "--threshold") == 0)
                arguments->threshold = to_number(option, value);
            else if (strcmp(option, "--provider") == 0)
                arguments->provider = value;
            else if (strcmp(option, "--stop") == 0 && generate->stop_string_count < MAX_STOPS)
                arguments->stops[generate->stop_string_count++] = value;
            else if (strcmp(option, "--threads") == 0)
                arguments->threads = (int)to_whole(option, value, INT_MAX);
            else if (strcmp(option, "-n") == 0 || strcmp(option, "--max-new-tokens") == 0)
                generate->max_new_tokens = (size_t)to_whole(option, value, SIZE_MAX);
            else if (strcmp(option, "--temperature") == 0)
                generate->temperature = to_number(option, value);
            else if (strcmp(option, "--top-k") == 0)
                generate->top_k = (size_t)to_whole(option, value, SIZE_MAX);
            else if (strcmp(option, "--top-p") == 0)
                generate->top_p = to_number(option, value);
            else if (strcmp(option, "--repetition-penalty") == 0)
                generate->repetition_penalty = to_number(option, value);
            else if (strcmp(option, "--seed") == 0)
                generate->seed = to_whole(option, value, UINT64_MAX);
            else
                stop("unknown option ", option);
        }
    }
    arguments->generate.stop_strings = arguments->stops;
    if (arguments->text == NULL && arguments->pixels == NULL)
        stop("no text", "");
    if (arguments->text != NULL && arguments->pixels != NULL)
        stop("there are both --pixels and a text: ", arguments->text);
}

/* The ids of a text of ids; how many. */
static size_t read_ids(const char *text, int64_t *ids)
{
    size_t count = 0;
    for (const char *at = text; *at != '\0';) {
        char *end;
        errno = 0;
        long long id = strtoll(at, &end, 10);
        if (end == at || errno != 0 || count == MAX_IDS || (*end != ' ' && *end != '\0'))
            stop("--ids takes whole numbers between spaces, found ", at);
        ids[count++] = id;
        for (at = end; *at == ' ';)
            at++;
    }
    return count;
}

static int show_text(void *user, const char *piece)
{
    (void)user;
    fputs(piece, stdout);
    return fflush(stdout); /* a reader who has gone ends the answer */
}

static int show_id(void *user, int64_t token)
{
    (void)user;
    printf("%lld ", (long long)token);
    return fflush(stdout);
}

static void show_latency(const struct edgept_bundle *bundle, const struct edgept_prompt *prompt,
                         const struct edgept_latency *latency)
{
    fprintf(stderr,
            "load %.0f ms, prompt %.2f ms, tokenize %.2f ms, swap %.3f ms, prefill %.1f ms (%zu virtual + %zu "
            "tokens), first token %.1f ms, %.2f ms/token, %zu tokens, total %.1f ms\n",
            edgept_bundle_load_ms(bundle), prompt == NULL ? 0 : edgept_prompt_load_ms(prompt),
            latency->tokenize_ms, latency->swap_ms, latency->prefill_ms, latency->virtual_tokens,
            latency->input_tokens, latency->ttft_ms, latency->tpot_ms, latency->new_tokens, latency->total_ms);
}

static enum edgept_status write_text(struct edgept_session *session, const struct edgept_prompt *prompt,
                                     struct arguments *arguments, const int64_t *ids, size_t count,
                                     struct edgept_latency *latency, struct edgept_error *error)
{
    struct edgept_generation made;
    enum edgept_status status;
    if (arguments->ids) {
        arguments->generate.on_token = show_id;
        status = edgept_session_generate(session, prompt, ids, count, &arguments->generate, &made, error);
    } else {
        arguments->generate.on_text = show_text;
        status = edgept_session_ask(session, prompt, arguments->text, &arguments->generate, &made, error);
    }
    if (status == EDGEPT_OK) {
        putchar('\n');
        *latency = made.latency;
    }
    return status;
}

static enum edgept_status read_text(struct edgept_bundle *bundle, struct edgept_session *session,
                                    const struct edgept_prompt *prompt, const struct edgept_text *text,
                                    struct edgept_latency *latency, struct edgept_error *error)
{
    enum edgept_status status;
    struct edgept_outputs found;
    struct edgept_classification classes;
    if (strcmp(edgept_bundle_task(bundle), "text-classification") == 0) {
        status = edgept_session_classify(session, prompt, text->ids, text->types, text->count, &classes, error);
        for (size_t i = 0; status == EDGEPT_OK && i < classes.classes; i++)
            printf("%c %.4f %s\n", i == classes.best ? '*' : ' ', classes.probabilities[i],
                   edgept_bundle_label(bundle, prompt, i));
        if (status == EDGEPT_OK)
            *latency = classes.latency;
        return status;
    }
    if (strcmp(edgept_bundle_task(bundle), "feature-extraction") == 0)
        status = edgept_session_embed(session, prompt, text->ids, text->types, text->count, &found, error);
    else
        status = edgept_session_outputs(session, prompt, text->ids, text->types, text->count, &found, error);
    for (size_t i = 0; status == EDGEPT_OK && i < found.rows * found.width; i++)
        printf("%.9g%c", (double)found.values[i], (i + 1) % found.width == 0 ? '\n' : ' ');
    if (status == EDGEPT_OK)
        *latency = found.latency;
    return status;
}

/* A picture's values, for free(). */
static float *read_pixels(const char *path, const struct edgept_image *image)
{
    size_t bytes = 3 * image->height * image->width * sizeof(float);
    float *pixels = malloc(bytes + 1); /* one more shows a file that is too long */
    FILE *file = fopen(path, "rb");
    if (pixels == NULL || file == NULL)
        stop("cannot read ", path);
    if (fread(pixels, 1, bytes + 1, file) != bytes) {
        fprintf(stderr, "edgept-run: %s is not 3 x %zu x %zu float32 values. Write them row by row.\n", path,
                image->height, image->width);
        exit(EDGEPT_USAGE);
    }
    fclose(file);
    return pixels;
}

/* A picture's class, its patches' classes in rows, the things in it, or its vector. */
static enum edgept_status show_sight(const struct edgept_bundle *bundle, struct edgept_session *session,
                                     const struct edgept_sight *sight, double threshold,
                                     struct edgept_error *error)
{
    struct edgept_classification classes;
    struct edgept_segmentation segments;
    struct edgept_detections things;
    enum edgept_status status = EDGEPT_OK;
    if (sight->task == EDGEPT_IMAGE_CLASSIFICATION) {
        status = edgept_sight_classify(session, sight, &classes, error);
        for (size_t i = 0; status == EDGEPT_OK && i < classes.classes; i++)
            printf("%c %.4f %s\n", i == classes.best ? '*' : ' ', classes.probabilities[i],
                   edgept_bundle_label(bundle, sight->prompt, i));
    } else if (sight->task == EDGEPT_IMAGE_SEGMENTATION) {
        status = edgept_sight_segment(session, sight, &segments, error);
        for (size_t i = 0; status == EDGEPT_OK && i < segments.rows * segments.columns; i++)
            printf("%s%c", edgept_bundle_label(bundle, sight->prompt, segments.classes[i]),
                   (i + 1) % segments.columns == 0 ? '\n' : ' ');
    } else if (sight->task == EDGEPT_OBJECT_DETECTION) {
        status = edgept_sight_detect(session, sight, threshold, &things, error);
        for (size_t i = 0; status == EDGEPT_OK && i < things.count; i++) {
            const struct edgept_detection *thing = &things.found[i];
            printf("%.4f %s %.4f %.4f %.4f %.4f\n", thing->score, thing->label, thing->box[0], thing->box[1],
                   thing->box[2], thing->box[3]);
        }
    } else {
        for (size_t i = 0; i < sight->feature_width; i++)
            printf("%.9g%c", (double)sight->features[i], i + 1 == sight->feature_width ? '\n' : ' ');
    }
    return status;
}

static enum edgept_status look(struct edgept_bundle *bundle, struct edgept_session *session,
                               const struct edgept_prompt *prompt, const struct arguments *arguments,
                               struct edgept_latency *latency, struct edgept_error *error)
{
    struct edgept_sight sight;
    const struct edgept_image *image = edgept_bundle_image(bundle);
    if (image == NULL)
        stop("--pixels is for bundles of image models, this one is for ", edgept_bundle_task(bundle));
    float *pixels = read_pixels(arguments->pixels, image);
    enum edgept_status status = edgept_session_see(session, prompt, pixels, EDGEPT_NO_FEATURES, &sight, error);
    if (status == EDGEPT_OK)
        status = show_sight(bundle, session, &sight, arguments->threshold, error);
    if (status == EDGEPT_OK)
        *latency = sight.latency;
    free(pixels);
    return status;
}

int main(int argc, char **argv)
{
    static int64_t ids[MAX_IDS];
    struct arguments arguments = {.bundle = getenv("EDGEPT_BUNDLE"), .threshold = THRESHOLD};
    struct edgept_bundle *bundle = NULL;
    struct edgept_prompt *prompt = NULL;
    struct edgept_session *session = NULL;
    struct edgept_latency latency = {0};
    struct edgept_error error = {"", ""};
    parse(argc, argv, &arguments);
    struct edgept_text text = {ids, NULL, arguments.ids && arguments.text != NULL ? read_ids(arguments.text, ids) : 0};
    struct edgept_provider provider = {.name = arguments.provider};
    struct edgept_bundle_options options = {.threads = arguments.threads, .check_hashes = arguments.check,
                                            .providers = &provider,
                                            .provider_count = arguments.provider != NULL};
    const char *folder = arguments.bundle == NULL || *arguments.bundle == '\0' ? "bundle" : arguments.bundle;
    enum edgept_status status = edgept_bundle_open(folder, &options, &bundle, &error);
    if (status == EDGEPT_OK && arguments.prompt != NULL)
        status = edgept_prompt_load(bundle, arguments.prompt, &prompt, &error);
    if (status == EDGEPT_OK)
        status = edgept_session_create(bundle, &session, &error);
    if (status == EDGEPT_OK) {
        const char *task = edgept_bundle_task(bundle);
        if (arguments.pixels != NULL) {
            status = look(bundle, session, prompt, &arguments, &latency, &error);
        } else if (strcmp(task, "text-generation") == 0 || strcmp(task, "text2text-generation") == 0) {
            status = write_text(session, prompt, &arguments, ids, text.count, &latency, &error);
        } else {
            if (!arguments.ids)
                status = edgept_session_encode(session, arguments.text, arguments.pair, 1, &text, &error);
            if (status == EDGEPT_OK)
                status = read_text(bundle, session, prompt, &text, &latency, &error);
        }
    }
    if (status)
        fprintf(stderr, "edgept-run: %s\n", error.message);
    else if (arguments.timings)
        show_latency(bundle, prompt, &latency);
    edgept_session_free(session);
    edgept_prompt_free(prompt);
    edgept_bundle_free(bundle);
    return finish((int)status);
}
