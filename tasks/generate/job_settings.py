"""What jobs are asked with: the settings of a run, the columns of a table's row, and the rows of a list.

A list is a folder of pictures, a table, a text with a prompt on each line, or a ComfyUI workflow.
"""

from pathlib import Path

from models.errors import BadInput
from models.pictures import PICTURE_SUFFIXES
from tasks.generate.comfyui_jobs import read_workflow
from tasks.generate.job_columns import In, JobColumns, in_, settings_of_run
from tasks.item_lists import Listing, read_listing
from tasks.table_files import TableRow

WORKFLOW_SUFFIX = ".json"


@settings_of_run
class JobsConfig(JobColumns):
    """What a job is made with: a table's row may say otherwise, and a setting given here overrides a workflow's."""


COLUMNS = in_(In.ROW)
"""What a table of jobs may have."""


def read_list(jobs: Path, images: Path | None) -> tuple[Listing, bool]:
    """Read the rows of a job list, and whether it is a workflow; each of a workflow's jobs runs over `images` if they
    are given.

    Raises BadInput for a list or a workflow that cannot be read.
    """
    if jobs.suffix.lower() == WORKFLOW_SUFFIX and not jobs.is_dir():
        if not jobs.is_file():
            raise BadInput(f"{jobs}: no such folder or file.")
        made = [{**job.values, "ignored": job.ignored} for job in read_workflow(jobs)]
        if images is None:
            return Listing(jobs.parent, [TableRow(values) for values in made]), True
        pictures = read_listing(images, PICTURE_SUFFIXES, "image", COLUMNS)
        rows = [TableRow({**v, **row.values}, row.problem, row.further) for v in made for row in pictures.rows]
        return Listing(pictures.folder, rows), True
    if images is not None:
        raise BadInput(f"{images}: --images goes with a ComfyUI workflow, and {jobs} is none (a .json file).")
    return read_listing(jobs, PICTURE_SUFFIXES, "image", COLUMNS, instead="prompt"), False
