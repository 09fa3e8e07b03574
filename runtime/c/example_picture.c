/*
 * example_picture.c - what a prompt finds in each of a camera's frames: example_picture BUNDLE PROMPT <FRAMES
 *
 *     ffmpeg -i /dev/video0 -vf scale=224:224 -f rawvideo -pix_fmt rgb24 - | example_picture vit p.safetensors
 * The size, and the mean and deviation below, are those of the bundle's preprocessor_config.json.
 */
#include <edgept.h>
#include <stdio.h>
#include <stdlib.h>

static enum edgept_status show(struct edgept_session *session, const struct edgept_sight *sight,
                               struct edgept_error *error)
{
    struct edgept_detections things = {NULL, 0};
    struct edgept_classification found = {.label = NULL};
    enum edgept_status status;
    if (sight->task == EDGEPT_OBJECT_DETECTION)
        status = edgept_sight_detect(session, sight, 0.5, &things, error);
    else /* of patches, with a prompt for it: edgept_sight_segment */
        status = edgept_sight_classify(session, sight, &found, error);
    if (found.label != NULL)
        printf("%s %.3f\n", found.label, found.probabilities[found.best]);
    for (size_t i = 0; i < things.count; i++) { /* left, top, right, bottom, from 0 to 1 */
        const struct edgept_detection *thing = &things.found[i];
        printf("%s %.3f at %.3f %.3f %.3f %.3f\n", thing->label, thing->score, thing->box[0], thing->box[1],
               thing->box[2], thing->box[3]);
    }
    return status;
}

int main(int argc, char **argv)
{
    struct edgept_bundle *bundle = NULL;
    struct edgept_prompt *prompt = NULL;
    struct edgept_session *session = NULL;
    struct edgept_sight sight;
    struct edgept_error error = {"", "usage: example_picture BUNDLE PROMPT <FRAMES"};
    enum edgept_status status = argc == 3 ? edgept_bundle_open(argv[1], NULL, &bundle, &error) : EDGEPT_USAGE;
    if (status == EDGEPT_OK && (status = edgept_prompt_load(bundle, argv[2], &prompt, &error)) == EDGEPT_OK)
        status = edgept_session_create(bundle, &session, &error);
    const struct edgept_image *image = status == EDGEPT_OK ? edgept_bundle_image(bundle) : NULL;
    size_t count = image == NULL ? 0 : image->height * image->width;
    unsigned char *frame = malloc(3 * count + 1);         /* RGB, row by row */
    float *pixels = malloc((3 * count + 1) * sizeof *pixels); /* (3, height, width) */
    while (status == EDGEPT_OK && frame && pixels && fread(frame, 3, count, stdin) == count) {
        for (size_t i = 0; i < 3 * count; i++)
            pixels[i % 3 * count + i / 3] = ((float)frame[i] / 255 - 0.5f) / 0.5f; /* image_mean, image_std */
        status = edgept_session_see(session, prompt, pixels, EDGEPT_NO_FEATURES, &sight, &error);
        if (status == EDGEPT_OK)
            status = show(session, &sight, &error);
    }
    if (status)
        fprintf(stderr, "%s\n", error.message);
    edgept_session_free(session);
    edgept_prompt_free(prompt);
    edgept_bundle_free(bundle);
    free(frame);
    free(pixels);
    return (int)status;
}
