"""cluster.yaml and deploy/kuberay.yaml, tested without a cloud: with Ray's own parsers, with AWS's catalogue of machine
types and moto as a fake AWS, and with checks of properties that none of those verify."""

import copy
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cfnlint.api
import pytest
import ray
import yaml
from kuberay_fields import FIELDS
from moto import mock_aws
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from paths import DEPLOY, REPOSITORY
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts import scripts

AWS, KUBERAY, ROLES = REPOSITORY / "cluster.yaml", DEPLOY / "kuberay.yaml", DEPLOY / "aws_roles.yaml"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # a name in Kubernetes (RFC 1123)
SECRETS = re.compile(
    r"AKIA|ASIA|BEGIN [A-Z ]*PRIVATE KEY|aws_(secret_)?access_key|RAY_AUTH_TOKEN|passw"
    r"|\b[0-9a-f]{32,}\b|[a-z0-9/+]{40}",
    re.IGNORECASE,
)

Config = dict[str, Any]


def read(path: Path) -> Config:
    return yaml.safe_load(path.read_text())


# --- Checks of cluster.yaml ---


def check_aws(config: Config) -> None:
    """AssertionError, or an error of Ray, if the cluster is not as documented."""
    validate_config(prepare_config(copy.deepcopy(config)))  # Ray's schema, its head type, its sums
    assert config["provider"]["type"] == "aws", "another cloud"
    types = dict(config["available_node_types"])
    head = types.pop(config["head_node_type"])
    assert head["resources"]["CPU"] == 0 and not head["resources"].get("GPU"), "the head offers CPUs or GPUs"
    assert head.get("max_workers") == 0 and "InstanceMarketOptions" not in head["node_config"], (
        "the head is a worker type or a spot machine"
    )
    assert any(t["resources"].get("GPU") for t in types.values()), "no machine with a GPU"
    assert any(not t["resources"].get("GPU") for t in types.values()), "no machine without a GPU"
    for name, one in types.items():
        market = one["node_config"].get("InstanceMarketOptions", {})
        assert market.get("MarketType") == "spot", f"{name} is not a spot machine"
        assert one.get("min_workers", 0) == 0, f"{name} does not scale to zero"
        assert 0 < one["max_workers"] <= config["max_workers"], f"{name} cannot be started"
        assert one["resources"]["CPU"] > 1, f"{name} has no CPUs"
    assert config["max_workers"] <= sum(one["max_workers"] for one in types.values()), (
        "max_workers is larger than the sum of its types"
    )
    assert 1 <= config["idle_timeout_minutes"] <= 60, "machines idle for too long"
    for one in (head, *types.values()):
        node = one["node_config"]
        assert node["MetadataOptions"]["HttpTokens"] == "required", (
            "a process that fetches a URL could get the machine's role"
        )
        disks = [mapping["Ebs"] for mapping in node["BlockDeviceMappings"]]
        assert [d["Encrypted"] and d["DeleteOnTermination"] and d["VolumeSize"] >= 100 for d in disks] == [True], "disk"
        assert set(node["IamInstanceProfile"]) == {"Name"}, "a role of a specific account"
    assert not SECRETS.search(yaml.safe_dump(config).replace("auth_token", "")), "a secret"
    check_start(config)
    check_set_up(config)


def check_start(config: Config) -> None:
    """Checks the commands that start Ray: this version accepts them, and only the cluster's own nodes can connect."""
    heads, workers = config["head_start_ray_commands"], config["worker_start_ray_commands"]
    for line in (line for line in (*heads, *workers) if "ray start" in line or "spot_notice" in line):
        assert re.search(r"export [^;]*RAY_AUTH_MODE=token;", line), f"no token is required: {line}"
    (head,), (worker,) = (list(map(options, starts(lines))) for lines in (heads, workers))
    assert head["head"] and head["num_cpus"] == head["num_gpus"] == 0, "the head counts its CPUs"
    assert head["dashboard_host"] == "127.0.0.1" and head["dashboard_port"] == 8265, (
        "the dashboard must be reachable only through the tunnel"
    )
    assert head["autoscaling_config"] == "~/ray_bootstrap_config.yaml", "not the path to which `ray up` writes it"
    assert worker["address"] == f"$RAY_HEAD_IP:{head['port']}", "workers connect to another address than the head's"
    assert worker["object_manager_port"] == head["object_manager_port"], "ports that differ"
    spill = worker["object_spilling_directory"].replace("$HOME", "~")
    assert f"mkdir -p {spill}" in config["worker_setup_commands"], "the spill folder does not exist"
    assert any("ulimit -n 65536" in line for line in heads) and any("ulimit -n 65536" in line for line in workers), (
        "the limit of open files is not raised"
    )
    (notice,) = (line for line in workers if "/deploy/" in line)
    script, address = re.findall(r"python ~/raylabel/(\S+) (\S+) ", notice)[0]
    assert (REPOSITORY / script).is_file() and address == worker["address"], "the head gets no spot notice"
    assert notice.rstrip().endswith("&"), "the command never returns"
    assert "nohup" in notice and workers.index(notice) > 1, (
        "the command ends with the ssh session, or starts before Ray"
    )


def starts(lines: list[str]) -> list[list[str]]:
    """The arguments of each `ray start`."""
    commands = [command.strip() for line in lines for command in line.split(";")]
    return [shlex.split(command)[2:] for command in commands if command.startswith("ray start")]


def options(arguments: list[str]) -> Config:
    """The arguments as parsed by Ray's own command line; an error if it does not know one."""
    return scripts.start.make_context("start", list(arguments)).params


def check_set_up(config: Config) -> None:
    """Checks the commands that install the package: it is this package, with the same versions on all machines."""
    every, head, worker = (config[f"{node}setup_commands"] for node in ("", "head_", "worker_"))
    check_ray(" ".join((*head, *worker)))
    (python,) = {found for line in every for found in re.findall(r"\bpython3\.\d+\b", line)}
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python")), (
        "the package does not support this Python"
    )
    packages = " ".join(line for line in every if "apt-get" in line).split()
    assert {"gcc", f"{python}-dev"} <= set(packages), "torch.compile cannot build its modules"
    for lines in (head, worker):
        assert sum("pip install" in line and "~/raylabel" in line.split() for line in lines) == 1, "no package"
    versions = " ".join(config["cluster_synced_files"])
    assert versions, "machines may install different versions"
    assert any(f"pip freeze --exclude raylabel > {versions}" in line for line in head)
    assert any(f"-c {versions}" in line for line in worker), "machines may install different versions"
    assert any("boto3" in line.split() for line in head), "the autoscaler cannot use AWS"
    assert config["file_mounts"].get("~/.ray/auth_token") == "~/.ray/auth_token", (
        "the token is not copied to the machines"
    )
    assert "chmod 600 ~/.ray/auth_token" in every, "other users of the machine can read the token"


def check_ray(text: str) -> None:
    """AssertionError unless every version of Ray in the text is the tested one, which pyproject.toml allows."""
    found = set(re.findall(r"\bray==([\w.]+)", text))
    (allowed,) = (one for one in map(Requirement, PROJECT["dependencies"]) if one.name == "ray")
    assert found == {ray.__version__}, f"Ray {found}, tested with {ray.__version__}"
    assert allowed.specifier.contains(ray.__version__)


def test_the_aws_cluster_file_is_as_documented() -> None:
    check_aws(read(AWS))
    assert not SECRETS.search(AWS.read_text().replace("auth_token", "")), "a secret in a comment"


Change = Callable[[Config], object]


def types(config: Config) -> Config:
    return config["available_node_types"]


def swap(key: str, old: str, new: str) -> Change:
    """Replaces a text in a list of commands, which must contain it."""

    def change(config: Config) -> None:
        assert any(old in line for line in config[key])
        config[key] = [line.replace(old, new) for line in config[key]]

    return change


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("Additional properties.*idle_minutes", lambda c: c.update(idle_minutes=1)),
        ("head_node_type", lambda c: c.update(head_node_type="heads")),
        ("larger than the sum", lambda c: c.update(max_workers=100)),
        ("gpu cannot be started", lambda c: c.update(max_workers=4)),
        ("different versions", lambda c: c.update(cluster_synced_files=[])),
        ("idle for too long", lambda c: c.update(idle_timeout_minutes=1000)),
        ("not copied to the machines", lambda c: c["file_mounts"].pop("~/.ray/auth_token")),
        ("not copied to the machines", lambda c: c["file_mounts"].update({"~/.ray/auth_token": "token.txt"})),
        ("ssh_private", lambda c: c["auth"].update(ssh_private="~/key.pem")),
        ("another cloud", lambda c: c["provider"].update(type="gcp")),
        ("a secret", lambda c: c["provider"].update(aws_credentials={"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE"})),
        ("the head offers", lambda c: types(c)["head"]["resources"].update(CPU=4)),
        ("the head is a worker type or a spot machine", lambda c: types(c)["head"].update(max_workers=1)),
        (
            "the head is a worker type or a spot machine",
            lambda c: types(c)["head"]["node_config"].update(InstanceMarketOptions={"MarketType": "spot"}),
        ),
        ("'resources' is a required", lambda c: types(c)["gpu"].pop("resources")),
        ("0.5 is not of type", lambda c: types(c)["gpu"]["resources"].update(GPU=0.5)),
        ("no machine with a GPU", lambda c: types(c)["gpu"]["resources"].pop("GPU")),
        ("does not scale to zero", lambda c: types(c)["gpu"].update(min_workers=1)),
        ("sum of `min_workers`", lambda c: types(c)["gpu"].update(min_workers=17)),
        ("max_worker' was unexpected", lambda c: types(c)["gpu"].update(max_worker=8)),
        ("cpu is not a spot machine", lambda c: types(c)["cpu"]["node_config"].pop("InstanceMarketOptions")),
        (
            "cpu is not a spot machine",
            lambda c: types(c)["cpu"]["node_config"].update(InstanceMarketOptions={"MarketType": "capacity-block"}),
        ),
        (
            "a role of a specific account",
            lambda c: types(c)["cpu"]["node_config"].update(
                IamInstanceProfile={"Arn": "arn:aws:iam::1:instance-profile/x"}
            ),
        ),
        ("disk", lambda c: types(c)["cpu"]["node_config"].update(BlockDeviceMappings=[])),
        ("no machine without", lambda c: types(c)["cpu"]["resources"].update(GPU=1)),
        ("cpu has no CPUs", lambda c: types(c)["cpu"]["resources"].update(CPU=1)),
        ("limit of open files", swap("worker_start_ray_commands", "ulimit -n 65536; ", "")),
        ("the command never returns", swap("worker_start_ray_commands", "/dev/null &", "/dev/null")),
        (
            "a process that fetches a URL",
            lambda c: types(c)["cpu"]["node_config"].update(MetadataOptions={"HttpTokens": "optional"}),
        ),
        ("counts its CPUs", swap("head_start_ray_commands", "--num-cpus=0", "--num-cpus=4")),
        ("counts its CPUs", swap("head_start_ray_commands", "--num-cpus=0", "")),
        ("No such option '--cpus'", swap("head_start_ray_commands", "--num-cpus=0", "--cpus=0")),
        ("only through the tunnel", swap("head_start_ray_commands", "127.0.0.1", "0.0.0.0")),
        ("no token is required", swap("head_start_ray_commands", "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled")),
        (
            "not the path to which `ray up`",
            swap("head_start_ray_commands", "~/ray_bootstrap_config.yaml", "cluster.yaml"),
        ),
        ("another address than the head's", swap("head_start_ray_commands", "--port=6379", "--port=6380")),
        ("ports that differ", swap("worker_start_ray_commands", "port=8076", "port=8077")),
        ("no token is required", swap("worker_start_ray_commands", " RAY_AUTH_MODE=token", "")),
        ("the spill folder does not exist", swap("worker_start_ray_commands", "$HOME/spill", "/mnt/spill")),
        ("ends with the ssh session", swap("worker_start_ray_commands", "nohup ", "")),
        ("the head gets no spot notice", swap("worker_start_ray_commands", "spot_notice.py", "spot.py")),
        ("can read the token", swap("setup_commands", "chmod 600", "chmod 644")),
        ("does not support this Python", swap("setup_commands", "python3.12", "python3.10")),
        ("torch.compile cannot", swap("setup_commands", " python3.12-dev", "")),
        ("torch.compile cannot", swap("setup_commands", " gcc", "")),
        ("Ray .*2.59.0", swap("head_setup_commands", "ray==2.60.0", "ray==2.59.0")),
        ("cannot use AWS", swap("head_setup_commands", " boto3", "")),
        ("no package", swap("worker_setup_commands", "'ray==2.60.0' ~/raylabel", "'ray==2.60.0'")),
        ("different versions", swap("worker_setup_commands", "-c ~/versions.txt", "")),
        ("a secret", lambda c: c["setup_commands"].append(f"export RAY_AUTH_TOKEN={'0123456789abcdef' * 4}")),
        ("a secret", lambda c: c["setup_commands"].append("echo wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY1 > ~/key")),
    ],
)
def test_changes_to_the_aws_cluster_file_are_noticed(message: str, change: Change) -> None:
    config = read(AWS)
    change(config)
    assert config != read(AWS)
    with pytest.raises(Exception, match=message):
        check_aws(config)


@pytest.mark.long
def test_the_mounted_files_are_the_whole_package(tmp_path: Path) -> None:
    """pip installs the same package from the mounted files as from this repository."""
    for remote, local in read(AWS)["file_mounts"].items():
        if remote.startswith("~/raylabel/"):
            target = tmp_path / "mounted" / remote.removeprefix("~/raylabel/")
            target.parent.mkdir(exist_ok=True)
            subprocess.run(["cp", "-r", str(REPOSITORY / local), str(target)], check=True)
    quiet = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*quiet, f"--target={tmp_path / 'out'}", str(tmp_path / "mounted")], check=True, capture_output=True)
    files = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "raylabel").rglob("*")
        if path.suffix in (".py", ".j2")
    }
    out = tmp_path / "out"
    assert {str(path.relative_to(out)) for path in out.glob("raylabel/**/*") if path.suffix in (".py", ".j2")} == files
    (metadata,) = out.glob("raylabel-*.dist-info/METADATA")
    required = re.findall(r"^Requires-Dist: ([^\n]+)$", metadata.read_text(), re.MULTILINE)
    assert {str(Requirement(one)) for one in required if "extra ==" not in one} == {
        str(Requirement(one)) for one in PROJECT["dependencies"]
    }
    assert (tmp_path / "mounted/deploy/spot_notice.py").is_file()


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fake AWS (moto), and a temporary home folder for the key that Ray creates."""
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("DEFAULT_REGION", "us-west-2")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(REPOSITORY)
    with mock_aws():
        yield


@pytest.mark.slow
def test_aws_starts_the_described_machines(aws: None) -> None:
    import boto3
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    boto3.client("cloudformation").create_stack(
        StackName="raylabel",
        TemplateBody=ROLES.read_text(),
        Parameters=[{"ParameterKey": "Bucket", "ParameterValue": "my-bucket"}],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    written = prepare_config(read(AWS))
    empty = copy.deepcopy(written)
    for one in types(empty).values():
        one["resources"] = {}
    # The resources of these machine types in AWS's catalogue.
    known = types(AWSNodeProvider.fillout_available_node_types_resources(empty))
    for name, one in types(written).items():
        if name != written["head_node_type"]:
            assert one["resources"] == {k: v for k, v in known[name]["resources"].items() if k in ("CPU", "GPU")}

    config = AWSNodeProvider.bootstrap_config(written)  # as `ray up`
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, one in types(config).items():
        provider.create_node(one["node_config"], {"ray-user-node-type": name}, 1)
    ec2 = boto3.client("ec2")
    machines = [one for group in ec2.describe_instances()["Reservations"] for one in group["Instances"]]
    assert len(machines) == len(types(config))
    for one in machines:
        tags = {tag["Key"]: tag["Value"] for tag in one["Tags"]}
        head = tags["ray-user-node-type"] == config["head_node_type"]
        assert one.get("InstanceLifecycle") == (None if head else "spot")
        assert one["IamInstanceProfile"]["Arn"].endswith("/raylabel-head" if head else "/raylabel-worker")
        assert tags["ray-cluster-name"] == config["cluster_name"]
        (group,) = ec2.describe_security_groups(GroupIds=[g["GroupId"] for g in one["SecurityGroups"]])[
            "SecurityGroups"
        ]
        open_to_all = [rule for rule in group["IpPermissions"] if rule["IpRanges"] or rule["Ipv6Ranges"]]
        assert [(rule["FromPort"], rule["ToPort"]) for rule in open_to_all] == [(22, 22)]


def test_the_roles_allow_only_what_is_documented(aws: None) -> None:
    problems = cfnlint.api.lint_all(ROLES.read_text())
    assert not [problem.message for problem in problems if problem.rule.severity != "informational"]
    allowed: dict[str, set[str]] = {}
    everywhere: dict[str, set[str]] = {}
    for resource in read_roles().values():
        if resource["Type"] == "AWS::IAM::ManagedPolicy":
            for role in (role["Ref"] for role in resource["Properties"]["Roles"]):
                for statement in resource["Properties"]["PolicyDocument"]["Statement"]:
                    actions = statement["Action"]
                    actions = {actions} if isinstance(actions, str) else set(actions)
                    allowed.setdefault(role, set()).update(actions)
                    if statement["Resource"] == "*" and "Condition" not in statement:
                        everywhere.setdefault(role, set()).update(actions)
    assert {action.partition(":")[0] for action in allowed["Worker"]} == {"s3"} and "Worker" not in everywhere
    assert everywhere["Head"] == {"ec2:RunInstances", "ec2:CreateTags", "ec2:Describe*"}
    assert not [action for actions in allowed.values() for action in actions if action.endswith(":*")]
    (condition,) = re.findall(r'"ec2:ResourceTag/ray-cluster-name": (\w+)', ROLES.read_text())
    assert condition == read(AWS)["cluster_name"], "the head may not terminate its machines"


def read_roles() -> Config:
    import cfnlint.decode.cfn_yaml

    return cfnlint.decode.cfn_yaml.load(str(ROLES))["Resources"]


# --- Checks of deploy/kuberay.yaml ---


def check_kuberay(job: Config) -> None:
    """AssertionError, or an error of Ray, if the run is not as documented."""
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob"), "another kind of object"
    check_fields(job, "RayJob")
    cluster, name = job["spec"]["rayClusterSpec"], job["metadata"]["name"]
    assert NAME.fullmatch(name) and len(name) <= 47, "the name is invalid or too long, because KubeRay adds to it"
    # As parsed by Ray's autoscaler.
    seen = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": name, "namespace": "default"}, "spec": cluster})
    resources = {group: one["resources"] for group, one in types(seen).items()}
    head, groups = resources.pop(seen["head_node_type"]), cluster["workerGroupSpecs"]
    assert head["CPU"] == 0 and not head.get("GPU"), "the head offers CPUs or GPUs"
    assert len(resources) == len(groups), "two groups have the same name"
    assert any(one.get("GPU") for one in resources.values()), "no pod with a GPU"
    assert any(not one.get("GPU") for one in resources.values()), "no pod without a GPU"
    assert all(one["CPU"] > 1 and one["memory"] > 8 << 30 for one in resources.values()), "too small a pod"
    assert cluster["rayVersion"] == ray.__version__, "not the tested version of Ray"
    assert cluster.get("authOptions") == {"mode": "token"}, "no token is required"
    scales = cluster["enableInTreeAutoscaling"], cluster["autoscalerOptions"]["version"]
    assert scales == (True, "v2"), "no autoscaler, or an old one"
    assert 60 <= cluster["autoscalerOptions"]["idleTimeoutSeconds"] <= 3600, "pods idle for too long"
    assert job["spec"]["submissionMode"] == "K8sJobMode", "another submission mode"
    assert job["spec"]["shutdownAfterJobFinishes"] and job["spec"]["ttlSecondsAfterFinished"] > 0, (
        "the cluster is never deleted"
    )
    for group in groups:
        assert NAME.fullmatch(group["groupName"]), "a name that Kubernetes rejects"
        assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"], "the group does not scale to zero"
        check_worker(group)
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *groups)]
    assert len({(pod["serviceAccountName"], pod["containers"][0]["image"]) for pod in pods}) == 1, "pods that differ"
    assert re.search(r":[\w.-]+$", pods[0]["containers"][0]["image"].removesuffix(":latest")), (
        "the tag of the image is missing or not fixed"
    )
    for pod in pods:
        assert pod["restartPolicy"] == "Never", "a restarted pod would be another node for the autoscaler"
        needs = pod["containers"][0]["resources"]
        assert needs["requests"] == needs["limits"], "Ray uses more than the pod requests"
    assert not SECRETS.search(yaml.safe_dump(job)), "a secret"
    most = sum(types(seen)[group]["max_workers"] * one.get("GPU", 0) for group, one in resources.items())
    check_entrypoint(job["spec"]["entrypoint"], most)


def check_worker(group: Config) -> None:
    """AssertionError unless the pod spills to its own volume and drains its node before it ends."""
    params, pod = group["rayStartParams"], group["template"]["spec"]
    given = options([f"--{key}={value}" for key, value in params.items()])
    spills = [
        mount["name"]
        for mount in pod["containers"][0]["volumeMounts"]
        if mount["mountPath"] == given["object_spilling_directory"]
    ]
    volumes = [volume["name"] for volume in pod["volumes"] if "sizeLimit" in volume["emptyDir"]]
    assert spills == volumes and spills, "the spill folder does not exist"
    command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
    drain, _, rest = command.partition(";")
    drained = scripts.drain_node.make_context("drain-node", shlex.split(drain)[2:]).params
    assert drained["reason"] == "DRAIN_NODE_REASON_PREEMPTION", "another reason"
    wait = int(rest.split()[-1])
    assert wait == drained["deadline_remaining_seconds"] < pod["terminationGracePeriodSeconds"], (
        "killed before it is done"
    )


def check_entrypoint(entrypoint: str, gpus: int) -> None:
    """AssertionError unless the job's command line accepts the arguments and the cluster can have enough GPUs."""
    from raylabel.cli.launch import Options, _options
    from raylabel.recipes import Recipe

    python, script, *arguments = shlex.split(entrypoint)
    assert python == "python" and (REPOSITORY / script.removeprefix("/home/ray/raylabel/")).is_file(), "no such job"
    with mock.patch.object(sys, "argv", [script, *arguments]):
        try:
            found = _options("", Options[Recipe])
        except SystemExit as error:
            raise AssertionError("arguments that the job does not know") from error
    assert found.root.startswith("s3://"), "the root is not shared by the pods"
    resources = found.recipe.resources
    assert max(1, resources.workers) <= resources.gpus <= gpus, "more GPUs than the cluster can have"
    assert resources.patience >= 1800, "the patience is shorter than the start of a machine"


def check_fields(value: Any, kind: str) -> None:
    """AssertionError unless every field belongs to the kind and has the type that Kubernetes requires."""
    if kind.startswith("["):
        assert isinstance(value, list), f"{value} is not a list"
        for one in value:
            check_fields(one, kind[1:-1])
    elif kind in FIELDS:
        for name, found in value.items():
            assert name in FIELDS[kind], f"{kind} has no field '{name}'"
            check_fields(found, FIELDS[kind][name])
    elif kind == "strings":
        assert all(isinstance(one, str) for pair in value.items() for one in pair), f"not all strings: {value}"
    else:
        assert type(value) is {"str": str, "int": int, "bool": bool}[kind], f"{value!r} is not {kind}"


def test_the_kubernetes_file_is_as_documented() -> None:
    check_kuberay(read(KUBERAY))
    text = KUBERAY.read_text()
    check_ray(text)
    assert re.findall(r"rayproject/ray:([\d.]+)-py(\d+)-gpu", text) == [(ray.__version__, "312")]
    # Python's headers are part of the image's Python, which is conda's.
    assert re.search(r"^#   RUN .*apt-get install -y gcc\b", text, re.MULTILINE), "torch.compile lacks a compiler"
    assert not SECRETS.search(text)


def spec(job: Config) -> Config:
    return job["spec"]["rayClusterSpec"]


def images(job: Config) -> list[Config]:
    """The container of each pod."""
    return [
        pod["template"]["spec"]["containers"][0] for pod in (spec(job)["headGroupSpec"], *spec(job)["workerGroupSpecs"])
    ]


def pod(job: Config, group: int = 0) -> Config:
    return spec(job)["workerGroupSpecs"][group]["template"]["spec"]


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("another kind", lambda j: j.update(apiVersion="ray.io/v1alpha1")),
        ("invalid or too long", lambda j: j["metadata"].update(name="Raylabel")),
        ("invalid or too long", lambda j: j["metadata"].update(name="r" * 48)),
        ("the cluster is never deleted", lambda j: j["spec"].update(shutdownAfterJobFinishes=False)),
        ("no field 'ttlSecondsAfterFinish'", lambda j: j["spec"].update(ttlSecondsAfterFinish=600)),
        ("'600' is not int", lambda j: j["spec"].update(ttlSecondsAfterFinished="600")),
        ("no such job", lambda j: j["spec"].update(entrypoint="python /home/ray/raylabel/jobs/none.py")),
        ("does not know", lambda j: j["spec"].update(entrypoint=j["spec"]["entrypoint"] + " --label.bath 3")),
        (
            "more GPUs than the cluster can have",
            lambda j: j["spec"].update(
                entrypoint=j["spec"]["entrypoint"].replace("--resources.gpus 8", "--resources.gpus 9")
            ),
        ),
        ("not the tested version of Ray", lambda j: spec(j).update(rayVersion="2.59.0")),
        ("no token", lambda j: spec(j).pop("authOptions")),
        ("no token", lambda j: spec(j).update(authOptions={"mode": "disabled"})),
        ("no autoscaler", lambda j: spec(j)["autoscalerOptions"].update(version="v1")),
        ("idle for too long", lambda j: spec(j)["autoscalerOptions"].update(idleTimeoutSeconds=86400)),
        ("another submission mode", lambda j: j["spec"].update(submissionMode="HTTPMode")),
        ("too small", lambda j: pod(j)["containers"][0]["resources"]["limits"].update(memory="4Gi")),
        ("not fixed", lambda j: [one.update(image="raylabel:latest") for one in images(j)]),
        (
            "shorter than the start of a machine",
            lambda j: j["spec"].update(entrypoint=j["spec"]["entrypoint"].replace("1800", "300")),
        ),
        (
            "not shared by the pods",
            lambda j: j["spec"].update(entrypoint=j["spec"]["entrypoint"].replace("--root s3://", "--root ")),
        ),
        ("no autoscaler", lambda j: spec(j).update(enableInTreeAutoscaling=False)),
        ("no field 'idleTimeoutMinutes'", lambda j: spec(j)["autoscalerOptions"].update(idleTimeoutMinutes=10)),
        ("the head offers", lambda j: spec(j)["headGroupSpec"]["rayStartParams"].update({"num-cpus": "4"})),
        ("not all strings", lambda j: spec(j)["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0})),
        ("the head offers", lambda j: spec(j)["headGroupSpec"]["rayStartParams"].pop("num-cpus")),
        (
            "pods that differ",
            lambda j: spec(j)["headGroupSpec"]["template"]["spec"]["containers"][0].update(
                image="REGISTRY/raylabel:0.2"
            ),
        ),
        ("scale to zero", lambda j: spec(j)["workerGroupSpecs"][0].update(minReplicas=1)),
        ("Kubernetes rejects", lambda j: spec(j)["workerGroupSpecs"][0].update(groupName="GPU")),
        ("two groups have the same name", lambda j: spec(j)["workerGroupSpecs"][0].update(groupName="cpu")),
        ("maxReplicas", lambda j: spec(j)["workerGroupSpecs"][0].pop("maxReplicas")),
        ("no pod with a GPU", lambda j: spec(j)["workerGroupSpecs"].pop(0)),
        ("no pod without", lambda j: spec(j)["workerGroupSpecs"].pop(1)),
        (
            "No such option '--spill'",
            lambda j: spec(j)["workerGroupSpecs"][1].update(rayStartParams={"spill": "/spill"}),
        ),
        ("another node for the autoscaler", lambda j: pod(j).update(restartPolicy="Always")),
        ("killed before", lambda j: pod(j).update(terminationGracePeriodSeconds=20)),
        ("no field 'terminationGracePeriod'", lambda j: pod(j).update(terminationGracePeriod=60)),
        ("more than the pod requests", lambda j: pod(j)["containers"][0]["resources"]["limits"].update(cpu="16")),
        ("not all strings", lambda j: pod(j)["containers"][0]["resources"]["limits"].update(cpu=15)),
        (
            "the spill folder does not exist",
            lambda j: pod(j)["containers"][0]["volumeMounts"][0].update(mountPath="/elsewhere"),
        ),
        ("a secret", lambda j: pod(j)["containers"][0].update(env=[{"name": "RAY_AUTH_TOKEN", "value": "secret"}])),
        ("the spill folder does not exist", lambda j: pod(j, 1)["volumes"].pop()),
    ],
)
def test_changes_to_the_kubernetes_file_are_noticed(message: str, change: Change) -> None:
    job = copy.deepcopy(read(KUBERAY))
    change(job)
    assert job != read(KUBERAY)
    with pytest.raises(Exception, match=message):
        check_kuberay(job)
