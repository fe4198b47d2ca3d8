"""How the gallery runs the examples: their arguments, and the pictures that they write."""

import shutil
from pathlib import Path

# What each example takes; those that need stories or a human dataset of them are shown, not run.
ARGUMENTS = {
    "synthetic_human": "{out}",
    "decoding": "{dataset} {out}",
    "nilearn_tour": "{dataset} {task} {out}",
    "surprisal_modulator": "{dataset} {task} {out}",
    "group_analysis": "{dataset} {task} {space} {out} --hrf none",
}
PATTERN = rf"/({'|'.join(ARGUMENTS)})\.py$"


class ExampleRuns:
    """Arguments of each example; `pictures` collects the PNG files that it wrote."""

    def __init__(self, dataset, out):
        self.dataset, self.out = dataset, Path(out)

    def __repr__(self):
        return f"ExampleRuns({self.dataset!r})"  # Sphinx compares this to see what has changed

    def __call__(self, _conf, script_vars):
        name = Path(script_vars["src_file"]).stem
        if name not in ARGUMENTS:
            return []
        out = self.out / name
        shutil.rmtree(out, ignore_errors=True)
        from llm2bids import open_dataset

        dataset = open_dataset(self.dataset)
        values = {"dataset": self.dataset, "task": dataset.tasks[0], "out": str(out)}
        values["space"] = dataset.space.label
        return [part.format(**values) for part in ARGUMENTS[name].split()]

    def pictures(self, _block, block_vars, gallery_conf):
        """Show every picture in the example's folder once, as the gallery's reST."""
        from sphinx_gallery.scrapers import figure_rst

        out = self.out / Path(block_vars["src_file"]).stem
        shown = []
        for file, path in zip(
            sorted(out.glob("*.png")), block_vars["image_path_iterator"], strict=False
        ):
            shutil.copyfile(file, path)
            file.rename(file.with_suffix(".shown"))
            shown.append(path)
        return figure_rst(shown, gallery_conf["src_dir"])
