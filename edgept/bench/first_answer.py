"""A small program as users write it: load, make a prompt resident, print the first token's id.

Of a picture it prints `first_number` of what is found. `python -m edgept.bench.first_answer` reads its
request as JSON from stdin. Its time from outside is that of a process from start to its first answer.
"""

import json
import sys

import edgept


def _main() -> None:
    request = json.load(sys.stdin)
    try:
        model = edgept.load(
            request["bundle"], threads=request["threads"], providers=request["providers"]
        )
        prompt = model.load_prompt(request["prompt"])
        if "picture" in request:
            from edgept.bench.sightings import first_number, numbers

            said = first_number(numbers(model.see(request["picture"], prompt=prompt)))
        else:
            result = model.generate(request["content"], prompt=prompt, max_new_tokens=1)
            said = result.token_ids[0]
    except edgept.EdgeptError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{said}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main()
