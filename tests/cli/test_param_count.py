"""tools/param_count as people run it: exit codes, numbers, imports."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from cifar_small.cli.param_count import main
from cifar_small.config.loading import load_config
from cifar_small.config.schema import ResNetModel
from cifar_small.models import counting
from cifar_small.models.counting import skeleton, trainable_parameters
from cifar_small.reporting.param_table import _layers, _row

ROOT = Path(__file__).resolve().parents[2]
WRN = "name: {name}\nmodel: {{family: wideresnet, depth: 28, widen_factor: {factor}}}\nphases: [{{epochs: 1}}]\n"


def write(folder, name, text):
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)


@pytest.fixture
def three(tmp_path):
    return write(tmp_path, "three", WRN.format(name="wrn_28_3", factor=3))


@pytest.fixture
def four(tmp_path):
    return write(tmp_path, "four", WRN.format(name="wrn_28_4", factor=4))


def cells(output, config):
    """The row of a config; it has its file's name where another installation than that of the file is imported."""
    rows = [line.split() for line in output.splitlines() if line.strip()]
    (row,) = [row for row in rows if row[0] == config or row[0].removesuffix(".yaml").endswith(f"/{config}")]
    return row[1:]


def tool(*arguments, cwd=ROOT):
    """Run the script with this interpreter, wherever the tests' environment lives."""
    command = [str(ROOT / "tools" / "param_count")]
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        run = "from cifar_small.cli.param_count import main; sys.exit(main(root=Path(sys.argv.pop(1))))"
        command = [sys.executable, "-c", f"import sys; from pathlib import Path; {run}", str(ROOT)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=cwd, timeout=600)


def test_configs_are_answered_without_heavy_imports(tmp_path, three):
    """Each of these takes a third of a second or more, and no net of ours needs them."""
    configs = [str(ROOT / "configs/published/resnet_4443_two_runs.yaml"), three]
    code = f"import sys; from cifar_small.cli.param_count import main; main({configs!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {"torch", "cifar_small.models"} <= loaded
    assert not loaded & {
        *("torchvision", "timm", "torch._dynamo", "torchinfo", "sympy", "pandas", "scipy", "sklearn", "matplotlib"),
        *("albumentations", "cv2", "onnx", "jinja2"),
    }


def test_nets_of_the_same_shape_are_counted_once(three, tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(counting, "skeleton", lambda *model: counted.append(model) or skeleton(*model))
    counting.footprint.cache_clear()
    assert main([three, write(tmp_path, "again", WRN.format(name="again", factor=3))]) == 0
    assert len(counted) == 1


def test_all_configs_of_the_repository(tmp_path):
    done = tool(cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert cells(done.stdout, "published/resnet_4443_two_runs") == [
        *("4,754,218", "4,754,218", "271.4", "18.14", "5,000,000", "245,782"),
    ]
    assert cells(done.stdout, "published/resnet44_width_190")[0] == "4,985,390"
    assert cells(done.stdout, "published/wrn_28_10_one_cycle_cifar100")[0] == "36,536,884"
    assert len(done.stdout.splitlines()) >= 5


def test_over_is_1_and_marked(three, four, tmp_path):
    done = tool("three.yaml", "four.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert cells(done.stdout, "three.yaml")[-1] == "1,705,958"
    assert cells(done.stdout, "four.yaml")[-2:] == ["-849,050", "OVER"]
    assert done.stderr == (
        "wrn_28_4 has 5,849,050 trainable parameters, 849,050 over the budget of 5,000,000; "
        "widest that fits: widen_factor 3 (3,294,042)\n"
    )


def test_unreadable_is_2_after_all_rows(three, four, tmp_path):
    write(tmp_path, "bad", "name: x\nmodel: {family: vgg}\nphases: [{epochs: 1}]\n")
    (tmp_path / "empty").mkdir()
    done = tool("bad.yaml", "missing.yaml", "four.yaml", "empty", "three.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert cells(done.stdout, "three.yaml")[0] == "3,294,042"
    errors = done.stderr.splitlines()
    assert len(errors) == 4  # one over, three unreadable
    assert errors[1].startswith("bad.yaml: model.family: expected one of resnet, wideresnet")
    assert errors[2].startswith("cannot read the config missing.yaml")
    assert errors[3] == "empty holds no .yaml file; give a config or a folder with configs"


def test_sweeps_are_no_configs(three, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = write(tmp_path, "sweep", "name: s\nconfig: three.yaml\nparameters: {batch_size: [32, 64]}\n")
    assert main([str(tmp_path)]) == 0  # in a folder they are passed over
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main([sweep]) == 2
    assert "sweep.yaml is a sweep, not a config; count its cells with: cifar-small sweep" in capsys.readouterr().err
    assert main([str(ROOT / "configs/sweeps")]) == 0
    assert cells(capsys.readouterr().out, "configs/sweeps/ablation_base.yaml")[0] == "309,738"


def test_an_impossible_net_is_2(tmp_path, capsys):
    text = "name: x\nmodel: {family: resnet, widths: [8, 4, 4], blocks: [1, 1, 1], shortcut: pad}\nphases: [{epochs: 1}]\n"
    assert main([write(tmp_path, "shrinks", text)]) == 2
    assert "shrinks.yaml: model.shortcut pad cannot shrink channels" in capsys.readouterr().err


def test_columns_are_aligned_to_the_right(three, four, capsys):
    main([three, four, "--budget", "6000000"])
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["config", "trainable", "total", "MMACs", "fp32", "MiB", "budget", "headroom"]
    assert {len(row) for row in rows} == {len(header)}
    assert header.index("trainable") + len("trainable") == rows[0].index("3,294,042") + len("3,294,042")


@pytest.mark.parametrize(("budget", "status"), [("3294042", 0), ("3_294_041", 1), ("5,000,000", 0)])
def test_budget_overrides_the_rules(three, budget, status, capsys):
    assert main([three, "--budget", budget]) == status
    assert f"{int(budget.replace('_', '').replace(',', '')):,}" in capsys.readouterr().out


@pytest.mark.parametrize("budget", ["0", "-1", "5M", ""])
def test_a_senseless_budget_is_a_usage_error(three, budget, capsys):
    with pytest.raises(SystemExit) as stop:
        main([three, f"--budget={budget}"])
    assert stop.value.code == 2
    assert "expected a positive whole number such as 5_000_000" in capsys.readouterr().err


def test_fit_prints_a_section_that_can_be_pasted(tmp_path, capsys):
    head, tail = "name: x\n", "phases: [{epochs: 1}]\n"
    model = "model: {family: resnet, widths: [64, 128, 256, 512], blocks: [2, 2, 2, 2], se_reduction: 16, dropout: 0.1}\n"
    assert main([write(tmp_path, "wide", head + model + tail), "--fit"]) == 1
    comment, _, section = capsys.readouterr().out.partition("# ")[2].partition("\n")
    pasted = write(tmp_path, "pasted", head + section + "\n" + tail)
    assert main([pasted]) == 0
    printed = capsys.readouterr().out.splitlines()[1].split()[1]
    assert f"{printed} trainable parameters" in comment
    assert yaml.safe_load(section).keys() == {"model"}
    found = load_config(pasted).model
    assert isinstance(found, ResNetModel)
    assert (found.se_reduction, found.dropout, found.blocks) == (16, 0.1, (2, 2, 2, 2))


def test_fit_says_when_nothing_fits(three, capsys):
    assert main([three, "--fit", "--budget", "1000"]) == 1
    assert "no width of this shape fits the budget of 1,000" in capsys.readouterr().out


def test_layers_prints_torchinfos_table(three, capsys):
    assert main([three, "--layers"]) == 0
    output = capsys.readouterr().out
    assert "Total params: 3,294,042" in output
    assert "PreactBlock: 2-1" in output
    assert "[1, 192, 8, 8]" in output
    assert "Units." not in output
    assert "multiply-adds:" not in output


def test_layers_say_where_torchinfo_counts_otherwise(three):
    row = _row(Path(three), None)
    other = replace(row, size=replace(row.size, macs=2 * row.size.macs))
    assert "\nmultiply-adds: " in _layers(other)
    assert "\nparameters: " not in _layers(row)
    more = replace(row, size=replace(row.size, total=row.size.total + 5))  # of a parameter that no layer has
    assert f"\nparameters: {row.size.total + 5:,}; torchinfo's sums above leave out" in _layers(more)


def test_unknown_classes_are_said(tmp_path, capsys):
    main([write(tmp_path, "own", WRN.format(name="own", factor=1) + "data: {source: npz, root: x.npz}\n")])
    assert "the classes of npz data are unknown before it is read; 10 assumed" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["data.classes", "class folders", "a CSV of labels", "npz"])
def test_classes_of_own_data_are_counted_where_no_image_is_needed_for_it(tmp_path, capsys, monkeypatch, source):
    """As `train` counts them: three classes have fewer parameters than the ten of CIFAR-10."""
    monkeypatch.setattr("cifar_small.data.pictures.read_pictures", None)
    root = tmp_path / "data"
    for name in ("ant", "bee", "cow") if source == "class folders" else ("",):
        (root / "train" / name).mkdir(parents=True)
    for number, name in enumerate(("ant", "bee", "cow")):
        (root / "train" / (name if source == "class folders" else "") / f"{number}.png").touch()
    data = {"source": "folder", "root": str(root)}
    if source == "a CSV of labels":
        (root / "train.csv").write_text("id,label\n0,ant\n1,bee\n2,cow\n")
    elif source == "npz":
        np.savez(tmp_path / "own.npz", classes=np.array(["ant", "bee", "cow"]))
        data = {"source": "npz", "root": str(tmp_path / "own.npz")}
    elif source == "data.classes":
        data = {"source": "npz", "root": "elsewhere.npz", "classes": ["ant", "bee", "cow"]}
    written = write(tmp_path, "own", WRN.format(name="own", factor=1) + f"data: {json.dumps(data)}\n")
    main([written])
    output = capsys.readouterr().out
    assert "assumed" not in output
    assert f"{trainable_parameters(load_config(written).model, 3):,}" in output


def test_data_that_cannot_be_read_hides_no_other_config(tmp_path, three, capsys):
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "1.png").touch()
    section = f"data: {{source: folder, root: {tmp_path / 'data'}}}\n"
    broken = write(tmp_path, "broken", WRN.format(name="broken", factor=1) + section)
    assert main([broken, three]) == 3
    output, errors = capsys.readouterr()
    assert f"{trainable_parameters(load_config(three).model, 10):,}" in output
    assert errors.count("\n") == 1
    assert "broken.yaml" in errors
    assert "has pictures without class folders" in errors
    assert main([broken, three, str(tmp_path / "gone.yaml")]) == 2  # the lesser code, of a wrong path


def test_help_has_examples():
    done = tool("--help")
    assert done.returncode == 0
    assert "tools/param_count my.yaml --fit" in done.stdout


def test_without_an_environment_it_says_what_to_run(tmp_path):
    (tmp_path / "tools").mkdir()
    script = tmp_path / "tools" / "param_count"
    script.write_bytes((ROOT / "tools" / "param_count").read_bytes())
    (script.parent / "_venv.py").write_bytes((ROOT / "tools" / "_venv.py").read_bytes())
    done = subprocess.run([sys.executable, "-S", str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert (
        done.stderr
        == f"{os.path.realpath(tmp_path)}/.venv is missing: run `make setup` in {os.path.realpath(tmp_path)} first\n"
    )


def test_the_script_is_executable():
    assert os.access(ROOT / "tools" / "param_count", os.X_OK)
