"""The tier-1 life through the aws CLI, each call as a person would type it."""

import json
import os
import subprocess
import sys
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "python"))

from steps import Walk, eventually, expect, same

walk = Walk("awscli")
made = {}
RUN = f"awscli-{uuid.uuid4().hex[:8]}"  # terminated instances of an earlier run are still visible
TAGS = "Tags=[{Key=walk,Value=%s}]" % RUN


class Refused(Exception):
    pass


def aws(*words):
    """Runs the CLI and returns its answer. Its endpoint is an option: Debian's CLI is older than AWS_ENDPOINT_URL."""
    command = ["aws", "--endpoint-url", os.environ["AWS_ENDPOINT_URL"], "--output", "json", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise Refused(done.stderr.strip())
    return json.loads(done.stdout) if done.stdout.strip() else None


def ec2(*words):
    return aws("ec2", *words)


def refused(code, *words):
    try:
        ec2(*words)
    except Refused as e:
        expect(f"({code})" in str(e), words[0], e)
        return
    raise AssertionError(f"{words[0]} passed, and should be {code}")


def places():
    expect(aws("sts", "get-caller-identity")["Account"].isdigit())
    region = os.environ["AWS_DEFAULT_REGION"]
    same(ec2("describe-regions", "--region-names", region, "--query", "Regions[].RegionName"), [region])
    made["zone"] = ec2("describe-availability-zones", "--query", "AvailabilityZones[0].ZoneName")
    types = ec2("describe-instance-types", "--page-size", "5", "--query", "InstanceTypes[].InstanceType")
    expect("nb1.tiny" in types and len(types) == len(set(types)), types)
    first = ec2("describe-instance-types", "--max-items", "5")
    expect(len(first["InstanceTypes"]) == 5 and first["NextToken"], first)


def keys():
    material = ec2("create-key-pair", "--key-name", "awscli", "--key-type", "ed25519", "--query", "KeyMaterial")
    walk.undo(ec2, "delete-key-pair", "--key-name", "awscli")
    expect("PRIVATE KEY" in material, "no key")
    ec2("wait", "key-pair-exists", "--key-names", "awscli")
    refused("InvalidKeyPair.Duplicate", "create-key-pair", "--key-name", "awscli")
    refused("InvalidKeyPair.NotFound", "describe-key-pairs", "--key-names", "no-such-key")


def networks():
    vpc = ec2("create-vpc", "--cidr-block", "10.32.0.0/16", "--tag-specifications", "ResourceType=vpc," + TAGS)["Vpc"]
    made["vpc"] = vpc["VpcId"]
    same(vpc["Tags"], [{"Key": "walk", "Value": RUN}])
    walk.undo(ec2, "delete-vpc", "--vpc-id", made["vpc"])
    ec2("wait", "vpc-available", "--vpc-ids", made["vpc"])
    ec2("modify-vpc-attribute", "--vpc-id", made["vpc"], "--enable-dns-hostnames")
    made["subnet"] = ec2("create-subnet", "--vpc-id", made["vpc"], "--cidr-block", "10.32.1.0/24", "--availability-zone", made["zone"])["Subnet"]["SubnetId"]
    walk.undo(ec2, "delete-subnet", "--subnet-id", made["subnet"])
    ec2("wait", "subnet-available", "--subnet-ids", made["subnet"])
    refused("InvalidSubnet.Conflict", "create-subnet", "--vpc-id", made["vpc"], "--cidr-block", "10.32.1.0/25")
    refused("InvalidVpcID.NotFound", "describe-vpcs", "--vpc-ids", "vpc-0123456789abcdef0")
    main = "Name=vpc-id,Values=" + made["vpc"]
    same(ec2("describe-route-tables", "--filters", main, "--query", "RouteTables[].Routes[].GatewayId"), ["local"])


def groups():
    made["group"] = ec2("create-security-group", "--vpc-id", made["vpc"], "--group-name", "awscli", "--description", "of the CLI")["GroupId"]
    walk.undo(ec2, "delete-security-group", "--group-id", made["group"])
    ec2("wait", "security-group-exists", "--group-ids", made["group"])
    ssh = ("--group-id", made["group"], "--protocol", "tcp", "--port", "22", "--cidr", "0.0.0.0/0")
    ec2("authorize-security-group-ingress", *ssh)
    refused("InvalidPermission.Duplicate", "authorize-security-group-ingress", *ssh)
    ec2("authorize-security-group-ingress", "--group-id", made["group"], "--protocol", "icmp", "--port", "-1", "--source-group", made["group"])
    ranges = "IpProtocol=tcp,FromPort=8000,ToPort=8080,IpRanges=[{CidrIp=10.0.0.0/8,Description=web}]"
    ec2("authorize-security-group-ingress", "--group-id", made["group"], "--ip-permissions", ranges)
    same(len(ec2("describe-security-group-rules", "--filters", "Name=group-id,Values=" + made["group"])["SecurityGroupRules"]), 4)
    ec2("revoke-security-group-ingress", *ssh)
    refused("InvalidPermission.NotFound", "revoke-security-group-ingress", *ssh)


def images():
    found = ec2("describe-images", "--executable-users", "all", "--filters", "Name=state,Values=available", "--query", "Images[].ImageId")
    made["image"] = found[0]
    ec2("wait", "image-available", "--image-ids", made["image"])
    refused("InvalidAMIID.NotFound", "describe-images", "--image-ids", "ami-0123456789abcdef0")


def registration():
    location = ec2("describe-images", "--image-ids", made["image"])["Images"][0]["ImageLocation"]
    own = ec2("register-image", "--name", RUN, "--image-location", location, "--architecture", "x86_64")["ImageId"]
    walk.undo(ec2, "deregister-image", "--image-id", own)
    ec2("modify-image-attribute", "--image-id", own, "--launch-permission", "Add=[{Group=all}]")
    same(ec2("describe-image-attribute", "--image-id", own, "--attribute", "launchPermission")["LaunchPermissions"], [{"Group": "all"}])
    ec2("reset-image-attribute", "--image-id", own, "--attribute", "launchPermission")
    ec2("deregister-image", "--image-id", own)
    same(ec2("describe-images", "--owners", "self")["Images"], [])


def launch():
    words = ("run-instances", "--image-id", made["image"], "--instance-type", "nb1.tiny", "--count", "2", "--key-name", "awscli", "--subnet-id", made["subnet"],
             "--security-group-ids", made["group"], "--user-data", "#!/bin/sh", "--client-token", str(uuid.uuid4()), "--metadata-options", "HttpTokens=required",
             "--tag-specifications", "ResourceType=instance," + TAGS, "ResourceType=volume," + TAGS)
    refused("DryRunOperation", *words, "--dry-run")
    reservation = ec2(*words)
    made["instances"] = [i["InstanceId"] for i in reservation["Instances"]]
    walk.undo(ec2, "wait", "instance-terminated", "--instance-ids", *made["instances"])
    walk.undo(ec2, "terminate-instances", "--instance-ids", *made["instances"])
    same(ec2(*words)["ReservationId"], reservation["ReservationId"])
    refused("IdempotentParameterMismatch", *words, "--disable-api-termination")
    ec2("wait", "instance-running", "--instance-ids", *made["instances"])
    ec2("wait", "instance-status-ok", "--instance-ids", *made["instances"])


def describe():
    query = "Reservations[].Instances[].[State.Name,KeyName,MetadataOptions.HttpTokens,SecurityGroups[0].GroupName]"
    shown = ec2("describe-instances", "--filters", f"Name=tag:walk,Values=*{RUN[1:]}", "--query", query)
    same(shown, [["running", "awscli", "required", "awscli"]] * 2)
    same(ec2("describe-instances", "--filters", "Name=tag:walk,Values=nobody", "--query", "Reservations"), [])
    same(len(ec2("describe-volumes", "--filters", "Name=tag:walk,Values=" + RUN, "--page-size", "5")["Volumes"]), 2)
    refused("InvalidInstanceID.Malformed", "describe-instances", "--instance-ids", "i-xyz")
    refused("InvalidInstanceID.NotFound", "describe-instances", "--instance-ids", "i-0123456789abcdef0")
    refused("InvalidParameterValue", "describe-instances", "--filters", "Name=no-such-filter,Values=x")


def attributes():
    one = made["instances"][0]
    ec2("modify-instance-attribute", "--instance-id", one, "--disable-api-termination")
    refused("OperationNotPermitted", "terminate-instances", "--instance-ids", one)
    ec2("modify-instance-attribute", "--instance-id", one, "--no-disable-api-termination")
    ec2("modify-instance-attribute", "--instance-id", one, "--attribute", "instanceInitiatedShutdownBehavior", "--value", "terminate")
    shown = ec2("describe-instance-attribute", "--instance-id", one, "--attribute", "instanceInitiatedShutdownBehavior")
    same(shown["InstanceInitiatedShutdownBehavior"]["Value"], "terminate")
    expect("Output" in ec2("get-console-output", "--instance-id", one, "--latest"), "no console")


def power():
    one, other = made["instances"]
    ec2("stop-instances", "--instance-ids", one)
    ec2("wait", "instance-stopped", "--instance-ids", one)
    ec2("start-instances", "--instance-ids", one)
    ec2("reboot-instances", "--instance-ids", other)
    ec2("wait", "instance-running", "--instance-ids", one, other)


def tags():
    targets = (made["instances"][0], made["vpc"])
    ec2("create-tags", "--resources", *targets, "--tags", "Key=team,Value=a b")
    same(ec2("describe-tags", "--filters", "Name=key,Values=team", "--query", "Tags[].[ResourceType,Value]"), [["instance", "a b"], ["vpc", "a b"]])
    ec2("delete-tags", "--resources", *targets, "--tags", "Key=team")
    same(ec2("describe-tags", "--filters", "Name=key,Values=team")["Tags"], [])


def ends():
    refused("DependencyViolation", "delete-security-group", "--group-id", made["group"])
    ec2("terminate-instances", "--instance-ids", *made["instances"])
    ec2("wait", "instance-terminated", "--instance-ids", *made["instances"])
    eventually(subnet_gone, "the subnet is in use")
    ec2("delete-security-group", "--group-id", made["group"])
    ec2("delete-vpc", "--vpc-id", made["vpc"])
    refused("InvalidVpcID.NotFound", "delete-vpc", "--vpc-id", made["vpc"])
    ec2("delete-key-pair", "--key-name", "awscli")


def subnet_gone():
    try:
        ec2("delete-subnet", "--subnet-id", made["subnet"])
    except Refused as e:
        expect("(DependencyViolation)" in str(e), e)
        return False
    return True


sys.exit(walk.run(places, keys, networks, groups, images, registration, launch, describe, attributes, power, tags, ends))
