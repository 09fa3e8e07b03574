"""Tune prompts for pictures on a frozen vision model. Needs the extra `edgept[export]`.

Code organization:
    rows.py          a picture with its class, its boxes or its mask
    files.py         which files are pictures, and what identifies them
    image_folder.py  a folder for each class, and CSV
    arrays.py        .npz
    coco.py          COCO's boxes and masks; run_length.py its packed masks, and shapes to pixels
    mask_folder.py   images/ and masks/; masks.py reads one
    data.py          any of these
    picture_labels.py  the classes
    store.py         pictures and targets as the model takes them
    visual_prompt.py what is trained; context.py: what CoOp trains
    matching.py      which virtual token finds which object
    losses.py        what is made small
    metrics.py       accuracy, AUC, mean IoU; average_precision.py COCO's AP
    validation.py    loss and metric of held-out pictures
    learner.py       loss and validation for the loop
    device_check.py  the same pictures on an exported bundle
    course.py        all of this as one run
"""
