/* example.c - one question under each of several prompts: example BUNDLE "question" PROMPT... */
#include <edgept.h>
#include <stdio.h>

static int show(void *user, const char *piece)
{
    (void)user;
    fputs(piece, stdout);
    return 0; /* anything else ends the answer */
}

int main(int argc, char **argv)
{
    struct edgept_generate_options options = {.max_new_tokens = 64, .on_text = show};
    struct edgept_bundle *bundle = NULL;
    struct edgept_session *session = NULL;
    struct edgept_generation made;
    struct edgept_error error;

    if (argc < 4) {
        fprintf(stderr, "usage: %s BUNDLE QUESTION PROMPT...\n", argv[0]);
        return EDGEPT_USAGE;
    }
    enum edgept_status status = edgept_bundle_open(argv[1], NULL, &bundle, &error);
    if (status == EDGEPT_OK)
        status = edgept_session_create(bundle, &session, &error);
    for (int i = 3; status == EDGEPT_OK && i < argc; i++) {
        struct edgept_prompt *prompt = NULL; /* programs load theirs once, and keep them */
        status = edgept_prompt_load(bundle, argv[i], &prompt, &error);
        if (status == EDGEPT_OK) {
            printf("%s: ", edgept_prompt_name(prompt));
            status = edgept_session_ask(session, prompt, argv[2], &options, &made, &error);
        }
        if (status == EDGEPT_OK)
            printf("\n    first token %.1f ms, then %.2f ms each\n", made.latency.ttft_ms,
                   made.latency.tpot_ms);
        edgept_prompt_free(prompt);
    }
    if (status)
        fprintf(stderr, "%s\n", error.message);
    edgept_session_free(session);
    edgept_bundle_free(bundle);
    return (int)status;
}
