"""Arm Ethos-U NPUs: compiles the file with Vela, and reports what Vela says about it.

Vela's figures are estimates by a model of the NPU and its memories, not measurements. The report names the system
configuration (clock, memories) and the memory mode that they assume. They leave out the time of ops on the CPU.
"""

import csv
import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import tempfile

from keras_dl.export import graph
from keras_dl.export.errors import ExportError
from keras_dl.export.targets.base import Context, Target, on_the_cpu
from keras_dl.processes import python

NPU_OP = "ethos-u"  # the custom op into which Vela compiles each run of NPU ops

# (system configuration, memory mode) by family: Vela's own defaults. They are written out because Vela warns about
# defaults. Its vela.ini describes both.
ASSUMPTIONS = {
    "ethos-u55": ("Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "ethos-u65": ("Ethos_U65_Client_Server", "Dedicated_Sram_384KB"),
    "ethos-u85": ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB"),
}
MACS_PER_CYCLE = {
    "ethos-u55": (32, 64, 128, 256),
    "ethos-u65": (256, 512),
    "ethos-u85": (128, 256, 512, 1024, 2048),
}
NAMES = [f"{family}-{macs}" for family, sizes in MACS_PER_CYCLE.items() for macs in sizes]

# Warning (supported operators) operator: CUMSUM, ofm: 'model/layer/Cumsum'
# Reason: Unsupported opType
# (further lines, until an empty one)
_FALLBACK = re.compile(
    r"^Warning \(supported operators\) operator: (?P<op>\S+), ofm: '(?P<output>.*)'\n(?P<reason>(?:.+\n)*)",
    re.MULTILINE,
)
_ERROR = re.compile(r"[\w.]*(Error|Exception)\b")
_REFUSED = re.compile(r"could not run on NPU")
_NO_REASON = "Vela gave no reason"


class EthosU(Target):
    """Compiles the file for one accelerator configuration, and reports which ops run on the NPU and their cost.

    The report's `flash` is the name of the file for the device, `<name>_vela.tflite`. The exported file is its source.

    Vela stops if it assigns an op to the NPU and then finds that it cannot run there. Such a file only runs uncompiled,
    on the CPU. The report says so, with the reason.
    """

    requires_quantization = ("int8", "int16x8")
    requires = ("ai_edge_litert.interpreter", "ethosu.vela")

    def run(self, litert_path, context: Context) -> dict:
        path = pathlib.Path(litert_path)
        system, memory_mode = ASSUMPTIONS[self.name.rpartition("-")[0]]
        with tempfile.TemporaryDirectory() as folder:
            output, refused = _compile(path, self.name, system, memory_mode, folder)
            assumptions = {"accelerator": self.name, "system_config": system, "memory_mode": memory_mode}
            versions = {"ethos-u-vela": importlib.metadata.version("ethos-u-vela")}
            if refused:
                ops = graph.read(path).ops
                report = {**assumptions, "refused": refused, **_placement(ops, ops, _reasons(output), refused)}
                report |= {"flash": None, "versions": versions, "files": []}
                return report | {"summary": ["There is no file for the NPU, and nothing to flash.", *_summary(report)]}
            folder = pathlib.Path(folder)
            compiled = folder / f"{path.stem}_vela.tflite"
            with open(folder / f"{path.stem}_summary_{system}.csv", newline="") as file:
                summary = next(csv.DictReader(file))
            placement = _placement(graph.read(path).ops, graph.read(compiled).ops, _reasons(output))
            layers = folder / f"{path.stem}_per-layer.csv"
            files = {compiled: compiled.name, layers: f"{path.stem}_vela_layers.csv"}
            for source, name in files.items():
                shutil.copyfile(source, context.folder / name)
            report = {
                **assumptions,
                "refused": None,
                "clock_mhz": float(summary["core_clock"]) / 1e6,
                **placement,
                **_cost(summary),
                "flash": compiled.name,
                "compiled_bytes": compiled.stat().st_size,
                "versions": versions,
                "files": list(files.values()),
            }
            flash = f"Flash {compiled.name}, which is compiled for {self.name}. Its source {path.name} runs on CPUs."
            return report | {"summary": [flash, *_summary(report)]}


def _compile(path, accelerator, system, memory_mode, folder):
    """Runs Vela. Returns its output, and the reason if it refuses the whole file, else None."""
    done = subprocess.run(
        python(
            *("-m", "ethosu.vela", path.resolve(), "--output-dir", folder),
            *("--accelerator-config", accelerator, "--config", "Arm/vela.ini"),
            *("--system-config", system, "--memory-mode", memory_mode),
            "--verbose-performance",  # not --show-cpu-operations: Vela 5.2 crashes with it if it splits an ARG_MAX
        ),
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if not done.returncode:
        return done.stdout, None
    cause = _cause(done.stderr or done.stdout)
    if _REFUSED.search(cause):
        return done.stdout, f"Vela refuses the whole file: {cause}"
    raise ExportError(f"Vela cannot compile {path.name} for {accelerator}: {cause}")


def _cause(printed):
    """Vela's error in one line: the lines below its traceback, else the last line of its output."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()] or ["it printed nothing"]
    start = next((i for i in reversed(range(len(lines))) if _ERROR.match(lines[i])), len(lines) - 1)
    return " ".join(lines[start:])


def _reasons(output):
    """The reasons of Vela's warnings about unsupported operators: dict of str by `(op, output tensor)`."""
    return {
        (match["op"], match["output"]): ". ".join(match["reason"].splitlines()).removeprefix("Reason: ")
        for match in _FALLBACK.finditer(output)
    }


def _placement(ops, compiled_ops, reasons, otherwise=_NO_REASON):
    """The share that runs on the NPU, of the file's ops and of its multiply-accumulates.

    Ops that Vela leaves on the CPU are unchanged in the compiled file. All others became part of an NPU op.
    """
    cpu = [op for op in compiled_ops if op.name != NPU_OP]
    macs, cpu_macs = (sum(op.macs for op in some) for some in (ops, cpu))
    return {
        "ops": len(ops),
        "npu_ops": len(ops) - len(cpu),
        "npu_op_share": 1 - len(cpu) / len(ops) if ops else 1.0,
        "macs": macs,
        "npu_mac_share": 1 - cpu_macs / macs if macs else 1.0,
        "cpu_ops": [{"op": op.name, "layer": op.layer, "reason": _reason(op, reasons, otherwise)} for op in cpu],
    }


def _reason(op, reasons, otherwise=_NO_REASON):
    names = {tensor.name for tensor in op.outputs}
    of_output = {key[0]: reason for key, reason in reasons.items() if key[1] in names}
    # Vela treats a fused activation as an op of its own, and then refuses that op.
    return of_output.get(op.name) or next((f"{other}: {why}" for other, why in of_output.items()), otherwise)


def _cost(summary):
    """Memory and time from Vela's summary, which has KiB and seconds."""

    def kibibytes(column):
        return round(float(summary[column]) * 1024)

    return {
        "sram_bytes": kibibytes("sram_memory_used"),
        "flash_bytes": kibibytes("on_chip_flash_memory_used") + kibibytes("off_chip_flash_memory_used"),
        "dram_bytes": kibibytes("dram_memory_used"),
        "estimated_cycles": int(float(summary["cycles_total"])),
        "estimated_npu_cycles": int(float(summary["cycles_npu"])),
        "estimated_ms": float(summary["inference_time"]) * 1e3,
    }


def _summary(report):
    memories = {"SRAM": "sram_bytes", "flash": "flash_bytes", "DRAM": "dram_bytes"}
    shares = f"{report['npu_op_share']:.1%} of {report['ops']} ops and {report['npu_mac_share']:.1%} of "
    lines = [f"{shares}{report['macs']:,} MACs run on the NPU."]
    if report["npu_ops"]:
        cost = f"{report['estimated_ms']:.3f} ms, {report['estimated_cycles']:,} cycles at {report['clock_mhz']:g} MHz"
        lines += [
            f"Memory: {', '.join(f'{name} {report[key]:,} bytes' for name, key in memories.items() if report[key])}.",
            f"Estimated on the NPU: {cost} ({report['system_config']}, {report['memory_mode']}).",
        ]
    return [*lines, *on_the_cpu(report["cpu_ops"])]
