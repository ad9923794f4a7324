"""Command-line arguments of short runs, and the messages of jobs that are stopped."""

STOPPING = "stopping, which takes up to 25 s: if it is cut short, the same command resumes from what is committed too\n"


STOPPED = "stopped: the same command resumes from what is committed\n"


SMALL = (
    *(
        "--student.arch",
        "resnet8x1",
        "--select.k",
        "20",
        "--select.p",
        "10",
        "--pretrain.images",
        "3200",
        "--finetune.images",
        "640",
    ),
    *("--pretrain.checkpoint-minutes", "0.001", "--label.batch", "64"),
)
