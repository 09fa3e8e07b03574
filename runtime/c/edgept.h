/*
 * edgept.h - one frozen ONNX model, and a small prompt file for each of its tasks
 *
 * A whole program: it opens a bundle, loads two prompts, and asks the same model under each.
 *
 *     #include <edgept.h>
 *     #include <stdio.h>
 *
 *     int main(void)
 *     {
 *         struct edgept_bundle *bundle = NULL;
 *         struct edgept_prompt *spanish = NULL, *billing = NULL;
 *         struct edgept_session *session = NULL;
 *         struct edgept_generation made;
 *         struct edgept_error error;
 *         const char *question = "Where is my parcel?";
 *
 *         if (edgept_bundle_open("bundle", NULL, &bundle, &error) ||
 *             edgept_prompt_load(bundle, "spanish.safetensors", &spanish, &error) ||
 *             edgept_prompt_load(bundle, "billing.safetensors", &billing, &error) ||
 *             edgept_session_create(bundle, &session, &error) ||
 *             edgept_session_ask(session, spanish, question, NULL, &made, &error) ||
 *             puts(made.text) < 0 ||
 *             edgept_session_ask(session, billing, question, NULL, &made, &error) ||
 *             puts(made.text) < 0)
 *             fprintf(stderr, "%s\n", error.message);
 *         edgept_session_free(session);
 *         edgept_prompt_free(spanish);
 *         edgept_prompt_free(billing);
 *         edgept_bundle_free(bundle);
 *         return 0;
 *     }
 *
 * What holds for every function:
 *
 * - A function that can fail returns an enum edgept_status, 0 for success. Out-parameters are written
 *   on success only. `error` is the caller's own and may be NULL; it is written on failure only, so its
 *   text lives as long as the caller keeps it.
 * - What a function creates is the caller's, and goes back by the _free function of its kind.
 *   Freeing NULL does nothing. Free sessions and prompts before their bundle, and a prompt after
 *   the calls that use it. What a function lends (const pointers) says how long it lives.
 * - Bundles, prompt files and prompts never change after they are made: any number of threads may use
 *   one. A session is for one thread at a time; threads have a session each. The one exception is
 *   edgept_session_cancel.
 * - The library prints nothing, ends no process, and keeps no state of its own outside its handles.
 * - Token ids are int64_t from 0 to the vocabulary's size. Texts are UTF-8 and end in a zero byte.
 *
 * ABI: struct members and function signatures are fixed within a minor version while the major version
 * is 0 (the shared library is libedgept.so.0.1), and within a major version afterwards. Set what you
 * do not use in an options struct to zero: that is the default of each.
 */
#ifndef EDGEPT_H
#define EDGEPT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EDGEPT_VERSION_MAJOR 0
#define EDGEPT_VERSION_MINOR 1
#define EDGEPT_VERSION_PATCH 0
#define EDGEPT_VERSION_STRING "0.1.0"

#ifndef EDGEPT_API
#define EDGEPT_API __attribute__((visibility("default")))
#endif

/* The version of the library that is linked, "0.1.0"; the macros are those it was compiled against. */
EDGEPT_API const char *edgept_version(void);

/* ---- errors ------------------------------------------------------------------------------------ */

/* From 1 to 5 these are the exit codes of the edgept command line. */
enum edgept_status {
    EDGEPT_OK = 0,
    EDGEPT_FAILED = 1,       /* onnxruntime or the system refused */
    EDGEPT_USAGE = 2,        /* an argument cannot be used as given */
    EDGEPT_INVALID_FILE = 3, /* a file breaks its format's rules; error.reason says which */
    EDGEPT_INCOMPATIBLE = 4, /* a prompt does not belong to this bundle */
    EDGEPT_UNTRUSTED = 5,    /* a file is not the one that was exported */
    EDGEPT_NO_MEMORY = 6     /* an allocation failed, or a memory limit is too low */
};

/* What went wrong: what was found, what was expected, what to do next. */
struct edgept_error {
    char reason[32];   /* of a broken rule of prompt_file.md, "header-too-large"; else "" */
    char message[480]; /* for people */
};

/* ---- prompt files ------------------------------------------------------------------------------ */

/*
 * A prompt file as it was read: every rule of prompt_file.md holds, and it is bound to no bundle.
 * Most programs call edgept_prompt_load instead.
 */
struct edgept_prompt_file;

/* Read a file, at most max_bytes large (0: 16 MiB). It takes at most twice that in memory. */
EDGEPT_API enum edgept_status edgept_prompt_file_read(const char *path, size_t max_bytes,
                                                      struct edgept_prompt_file **file,
                                                      struct edgept_error *error);

/* The same of a file's bytes, which are not needed afterwards. */
EDGEPT_API enum edgept_status edgept_prompt_file_parse(const void *data, size_t size, size_t max_bytes,
                                                       struct edgept_prompt_file **file,
                                                       struct edgept_error *error);

EDGEPT_API void edgept_prompt_file_free(struct edgept_prompt_file *file);

/* A metadata value: "name", "task", "fingerprint", ...; NULL where it is absent. Lives as the file. */
EDGEPT_API const char *edgept_prompt_file_metadata(const struct edgept_prompt_file *file,
                                                   const char *key);

/*
 * A tensor's values as float32, row by row; NULL where it is absent. Live as the file.
 * name: "prompt_embeds", "prompt_kv", "head.weight", "head.bias", "head.dense.weight", "head.dense.bias",
 * "box.weight", "box.bias".
 * shape: gets the dimensions, the rest is 0. rank: gets their number.
 */
EDGEPT_API const float *edgept_prompt_file_tensor(const struct edgept_prompt_file *file,
                                                  const char *name, size_t shape[5], size_t *rank);

/* How many class names the file gives, and one of them; NULL past the last. They live as the file. */
EDGEPT_API size_t edgept_prompt_file_label_count(const struct edgept_prompt_file *file);
EDGEPT_API const char *edgept_prompt_file_label(const struct edgept_prompt_file *file, size_t index);

/* ---- bundles ----------------------------------------------------------------------------------- */

/* A frozen model: the folder that `edgept export` made, open in onnxruntime. */
struct edgept_bundle;

/* An onnxruntime execution provider, with onnxruntime's own options as strings. */
struct edgept_provider {
    const char *name; /* "CUDAExecutionProvider", "TensorrtExecutionProvider", "XNNPACK", ... */
    const char *const *keys;
    const char *const *values;
    size_t option_count;
};

struct edgept_bundle_options {
    int threads;       /* that compute one operator; 0: every core that this process may use */
    size_t max_length; /* longest sequence in tokens, virtual and new ones included; 0: the model's */
    const struct edgept_provider *providers; /* best first; CPU is always the last */
    size_t provider_count;
    int check_hashes;     /* 1: every file is compared with edgept.sha256 first */
    const char *sha256;   /* of edgept.sha256 itself, 64 digits 0-9 a-f, where you have it from elsewhere:
                             implies check_hashes; NULL: the folder is its own witness */
    size_t session_bytes; /* most memory that a session may take for its cache and its buffers, the old
                             and the new cache together while it grows; onnxruntime's own memory and the
                             tokenizer's are not counted. 0: what a request needs */
};

/*
 * Open a bundle. Its graphs are checked for what they may refer to before onnxruntime sees them.
 * options may be NULL.
 */
EDGEPT_API enum edgept_status edgept_bundle_open(const char *folder,
                                                 const struct edgept_bundle_options *options,
                                                 struct edgept_bundle **bundle,
                                                 struct edgept_error *error);

EDGEPT_API void edgept_bundle_free(struct edgept_bundle *bundle);

/* "text-generation", "text-classification", ...; lives as the bundle, like the other texts below. */
EDGEPT_API const char *edgept_bundle_task(const struct edgept_bundle *bundle);
EDGEPT_API const char *edgept_bundle_fingerprint(const struct edgept_bundle *bundle);
EDGEPT_API size_t edgept_bundle_vocab_size(const struct edgept_bundle *bundle);
EDGEPT_API size_t edgept_bundle_hidden_size(const struct edgept_bundle *bundle);
EDGEPT_API size_t edgept_bundle_max_length(const struct edgept_bundle *bundle);
EDGEPT_API double edgept_bundle_load_ms(const struct edgept_bundle *bundle);

/* What an image model's graph takes. */
struct edgept_image {
    size_t height, width; /* of the picture, in pixels */
    size_t patch_size;    /* side of a patch, in pixels */
    size_t rows, columns; /* of patches */
    size_t layers;        /* that may each have rows of their own: deep prompts */
    int patches_detect;   /* 1: each patch finds one thing or none, with boxes of the model's own; 0: each virtual
                             token of a prompt does */
};

/* NULL of models of text; lives as the bundle. */
EDGEPT_API const struct edgept_image *edgept_bundle_image(const struct edgept_bundle *bundle);

/* ---- prompts ----------------------------------------------------------------------------------- */

/* A prompt that is resident on one bundle: its keys and values are computed, once. */
struct edgept_prompt;

/*
 * Read a prompt file, check that it belongs to the bundle, and make it resident. The first one of its kind
 * (rows; keys and values) is run, and refused where the model's output does not depend on it.
 */
EDGEPT_API enum edgept_status edgept_prompt_load(struct edgept_bundle *bundle, const char *path,
                                                 struct edgept_prompt **prompt,
                                                 struct edgept_error *error);

/* The same of a file that was read already, which is not needed afterwards. */
EDGEPT_API enum edgept_status edgept_prompt_bind(struct edgept_bundle *bundle,
                                                 const struct edgept_prompt_file *file,
                                                 struct edgept_prompt **prompt,
                                                 struct edgept_error *error);

EDGEPT_API void edgept_prompt_free(struct edgept_prompt *prompt);

EDGEPT_API const char *edgept_prompt_name(const struct edgept_prompt *prompt);
EDGEPT_API const char *edgept_prompt_task(const struct edgept_prompt *prompt); /* "image-segmentation", ... */
EDGEPT_API size_t edgept_prompt_virtual_tokens(const struct edgept_prompt *prompt);
EDGEPT_API size_t edgept_prompt_bytes(const struct edgept_prompt *prompt); /* that it takes in memory */
EDGEPT_API double edgept_prompt_load_ms(const struct edgept_prompt *prompt);

/* ---- sessions ---------------------------------------------------------------------------------- */

/*
 * Room to work in: a cache, a request's state. It is kept from request to request, so that a request
 * no larger than those before it makes the library itself allocate nothing, and one under the prompt of
 * the request before it copies no keys and values.
 */
struct edgept_session;

EDGEPT_API enum edgept_status edgept_session_create(const struct edgept_bundle *bundle,
                                                    struct edgept_session **session,
                                                    struct edgept_error *error);

EDGEPT_API void edgept_session_free(struct edgept_session *session);

/*
 * End the session's generation at its next token, or its prefill before the next piece of a long text; if
 * none is running, the next one. The one function that another thread may call on a session in use.
 */
EDGEPT_API void edgept_session_cancel(struct edgept_session *session);

/* Wall-clock times of a request, in milliseconds of the monotonic clock. */
struct edgept_latency {
    double tokenize_ms; /* text to token ids; 0 where ids were given */
    double swap_ms;    /* making the prompt the request's own: its keys and values into the cache */
    double prefill_ms; /* one run over all of the input's tokens */
    double ttft_ms;    /* from the call to its first token; 0 without one */
    double tpot_ms;    /* per output token after the first; 0 with fewer than two */
    double total_ms;   /* the call to its end */
    size_t virtual_tokens;
    size_t input_tokens;
    size_t new_tokens;
};

/* ---- text generation: decoder-only models and encoder-decoders ----------------------------------- */

enum edgept_finish {
    EDGEPT_FINISH_EOS = 0,       /* an end-of-text token of the bundle's */
    EDGEPT_FINISH_STOP = 1,      /* a stop id or a stop string, or a callback said so */
    EDGEPT_FINISH_LENGTH = 2,    /* max_new_tokens */
    EDGEPT_FINISH_FULL = 3,      /* the longest sequence */
    EDGEPT_FINISH_CANCELLED = 4  /* edgept_session_cancel */
};

/* The two callbacks may call edgept_session_cancel, and nothing else on their session. */
struct edgept_generate_options {
    size_t max_new_tokens;     /* 0: 256 */
    double temperature;        /* divides the logits; 0: greedy, and the next three have no effect */
    size_t top_k;              /* sample among so many most probable tokens; 0: all */
    double top_p;              /* among the fewest that hold this much probability; 0: all */
    uint64_t seed;             /* the same seed gives the same tokens */
    double repetition_penalty; /* above 1 makes tokens of the text less probable; 0: off */
    const int64_t *stop_ids;   /* end it too, like the bundle's own end-of-text ids */
    size_t stop_count;
    const char *const *stop_strings; /* texts that end it; they and what follows are not in the text */
    size_t stop_string_count;
    int (*on_token)(void *user, int64_t token); /* called with each new token; not 0 ends it */
    int (*on_text)(void *user, const char *piece); /* with each piece of text, in whole characters, as soon
                                                      as it is certain; not 0 ends it. It and stop strings
                                                      need a bundle with a tokenizer.bin */
    void *user;
};

struct edgept_generation {
    const int64_t *ids; /* the new tokens, an end-of-text token included; until the session's next call */
    size_t count;
    const char *text; /* of the new tokens, without special and end-of-text tokens; until then, too. NULL:
                         the bundle has no tokenizer.bin */
    enum edgept_finish finish;
    struct edgept_latency latency;
};

/*
 * Generate a continuation of `count` ids under a prompt (NULL: the plain model); with a prompt of rows
 * the text may be empty. options may be NULL.
 */
EDGEPT_API enum edgept_status edgept_session_generate(struct edgept_session *session,
                                                      const struct edgept_prompt *prompt,
                                                      const int64_t *ids, size_t count,
                                                      const struct edgept_generate_options *options,
                                                      struct edgept_generation *generation,
                                                      struct edgept_error *error);

/*
 * The same by hand: begin a sequence, then take one token after the other.
 * logits: gets vocabulary-many scores of the next token, valid until the session's next call.
 * A prefill that edgept_session_cancel ended, before the call or during it, is EDGEPT_FAILED: *logits
 * stays as it was, and there is no sequence for edgept_session_step. Steps are never cancelled.
 */
EDGEPT_API enum edgept_status edgept_session_prefill(struct edgept_session *session,
                                                     const struct edgept_prompt *prompt,
                                                     const int64_t *ids, size_t count,
                                                     const float **logits, struct edgept_error *error);
EDGEPT_API enum edgept_status edgept_session_step(struct edgept_session *session, int64_t id,
                                                  const float **logits, struct edgept_error *error);

/* ---- text: bundles that hold a tokenizer.bin ------------------------------------------------------ */

/* A text's tokens: the session's, until its next text. */
struct edgept_text {
    const int64_t *ids;   /* (count,) */
    const int64_t *types; /* (count,): 1 for the second text of a pair, else 0 */
    size_t count;
};

/*
 * Token ids of a text, or of a pair of texts (pair: NULL without). special_tokens: 1 adds what the model
 * expects around a text; 0 for one that a chat template made, which holds them already.
 */
EDGEPT_API enum edgept_status edgept_session_encode(struct edgept_session *session, const char *text,
                                                    const char *pair, int special_tokens,
                                                    struct edgept_text *tokens,
                                                    struct edgept_error *error);

/* The text of ids, special tokens and ids without a token left out; the session's, until its next text. */
EDGEPT_API enum edgept_status edgept_session_decode(struct edgept_session *session, const int64_t *ids,
                                                    size_t count, const char **text,
                                                    struct edgept_error *error);

/* Generate from a text: edgept_session_encode with special tokens, and edgept_session_generate. */
EDGEPT_API enum edgept_status edgept_session_ask(struct edgept_session *session,
                                                 const struct edgept_prompt *prompt,
                                                 const char *question,
                                                 const struct edgept_generate_options *options,
                                                 struct edgept_generation *generation,
                                                 struct edgept_error *error);

/* ---- models that read and do not write ----------------------------------------------------------- */

/* What the graph gives for a text. All of it is the session's, until its next call. */
struct edgept_outputs {
    const float *values; /* (rows, width): logits or hidden states */
    size_t rows;         /* positions, virtual tokens included; 1 for a text's classes */
    size_t width;
    struct edgept_latency latency;
};

/*
 * Run the model once over `count` ids. type_ids: of a pair of texts, 0 and 1; NULL: all 0. A prompt may
 * bring its own head, with its own number of classes.
 */
EDGEPT_API enum edgept_status edgept_session_outputs(struct edgept_session *session,
                                                     const struct edgept_prompt *prompt,
                                                     const int64_t *ids, const int64_t *type_ids,
                                                     size_t count, struct edgept_outputs *outputs,
                                                     struct edgept_error *error);

struct edgept_classification {
    size_t best;                 /* the most probable class */
    const char *label;           /* its name; lives as the prompt, or as the bundle without its head */
    const float *logits;         /* (classes,); the session's, until its next call */
    const double *probabilities; /* (classes,): softmax; the session's, too */
    size_t classes;
    struct edgept_latency latency;
};

/* Classify a text, on a bundle for text-classification. Arguments as edgept_session_outputs. */
EDGEPT_API enum edgept_status edgept_session_classify(struct edgept_session *session,
                                                      const struct edgept_prompt *prompt,
                                                      const int64_t *ids, const int64_t *type_ids,
                                                      size_t count,
                                                      struct edgept_classification *classification,
                                                      struct edgept_error *error);

/* The name of a class: of the prompt's head, else of the model's own; NULL past the last. */
EDGEPT_API const char *edgept_bundle_label(const struct edgept_bundle *bundle,
                                           const struct edgept_prompt *prompt, size_t index);

/*
 * A text as one vector (1, hidden), pooled and normalised as the bundle says, on a bundle for
 * feature-extraction. Arguments as edgept_session_outputs.
 */
EDGEPT_API enum edgept_status edgept_session_embed(struct edgept_session *session,
                                                   const struct edgept_prompt *prompt,
                                                   const int64_t *ids, const int64_t *type_ids,
                                                   size_t count, struct edgept_outputs *vector,
                                                   struct edgept_error *error);

/* ---- image models -------------------------------------------------------------------------------- */

enum edgept_image_task {
    EDGEPT_IMAGE_CLASSIFICATION = 0,
    EDGEPT_IMAGE_SEGMENTATION = 1,
    EDGEPT_OBJECT_DETECTION = 2,
    EDGEPT_IMAGE_FEATURES = 3 /* no head: the picture's vector */
};

/*
 * What the graph gives for a picture: at its own position, then at each virtual token, then at each patch,
 * row by row. All of it is the session's, until it sees the next picture.
 */
struct edgept_sight {
    enum edgept_image_task task;        /* the prompt's; of the plain model, what it has a head for */
    const struct edgept_prompt *prompt; /* as given */
    size_t positions;                   /* 1 + virtual tokens + patches */
    size_t first, count;                /* those that the task reads */
    size_t classes;                     /* 0 where no head is used; edgept_bundle_label names them */
    size_t feature_width;
    const float *logits;   /* (positions, classes); NULL where no head is used */
    const float *boxes;    /* (positions, 4): centre x, centre y, width, height, in shares of what pixels show;
                              NULL unless things are detected */
    const float *features; /* (positions, feature_width); NULL unless they were asked for, or are the task */
    struct edgept_latency latency; /* input_tokens: patches */
};

/* Whether a sight has features. */
enum edgept_features {
    EDGEPT_NO_FEATURES = 0,   /* only where they are the task */
    EDGEPT_WITH_FEATURES = 1, /* beside what the task reads */
    EDGEPT_FEATURES_ALONE = 2 /* they are the task, whatever the prompt is for: no head is used */
};

/*
 * Look at a picture under a prompt (NULL: the plain model), and do what the prompt is for.
 * pixels: (3, height, width) as edgept_bundle_image says, row by row; decoded, resized and normalised by the
 * program as the bundle's preprocessor_config.json says: to classify, and for features, with its crop; to segment
 * and to detect, all of the picture squeezed into that size. edgept_prompt_task says which. Where it says do_pad
 * (OWLv2), the picture is put at the top left of a black square with its longer side, and that is resized: boxes
 * and patches are then places in the square, so multiply a box by that side and clip it to the picture, and drop
 * the patches beyond it.
 */
EDGEPT_API enum edgept_status edgept_session_see(struct edgept_session *session,
                                                 const struct edgept_prompt *prompt, const float *pixels,
                                                 enum edgept_features features,
                                                 struct edgept_sight *sight, struct edgept_error *error);

/* What is made of a sight, by its task. The memory is the session's, until its next call; the sight stays. */

/* The picture's class. */
EDGEPT_API enum edgept_status edgept_sight_classify(struct edgept_session *session,
                                                    const struct edgept_sight *sight,
                                                    struct edgept_classification *classification,
                                                    struct edgept_error *error);

/* Which class each patch is of. For pixels, stretch the patches' logits bilinearly, as the Python runtime does. */
struct edgept_segmentation {
    const uint32_t *classes; /* (rows, columns) */
    size_t rows, columns;
};
EDGEPT_API enum edgept_status edgept_sight_segment(struct edgept_session *session,
                                                   const struct edgept_sight *sight,
                                                   struct edgept_segmentation *segmentation,
                                                   struct edgept_error *error);

struct edgept_detection {
    const char *label; /* lives as the prompt */
    size_t index;      /* of that class */
    double score;      /* its probability */
    double box[4];     /* left, top, right, bottom, in shares of what pixels showed, 0 to 1 */
};
struct edgept_detections {
    const struct edgept_detection *found; /* best first */
    size_t count;
};

/* The things in it that score at least a threshold, 0 to 1; 0.5 is usual. */
EDGEPT_API enum edgept_status edgept_sight_detect(struct edgept_session *session,
                                                  const struct edgept_sight *sight, double threshold,
                                                  struct edgept_detections *detections,
                                                  struct edgept_error *error);

#ifdef __cplusplus
}
#endif

#endif /* EDGEPT_H */
