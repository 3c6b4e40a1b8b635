"""The tier-1 life through boto3, with every botocore waiter whose action is served."""

import base64
import os
import sys
import uuid
import warnings

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "python"))
warnings.filterwarnings("ignore")

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import ClientError, WaiterError

from steps import Walk, eventually, expect, same

walk = Walk("boto3")
session = boto3.session.Session()
options = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"], "config": Config(retries={"max_attempts": 1})}
ec2 = session.client("ec2", **options)
made = {}
waited = set()

RUN = f"boto3-{uuid.uuid4().hex[:8]}"  # terminated instances of an earlier run are still visible
TAG = {"Key": "walk", "Value": RUN}
FAST = {"Delay": 1, "MaxAttempts": 120}


def tagged(kind, name):
    return [{"ResourceType": kind, "Tags": [TAG, {"Key": "Name", "Value": name}]}]


def refused(code, call, **parameters):
    """Expects that a call is refused with EC2's code."""
    try:
        call(**parameters)
    except ClientError as e:
        same(e.response["Error"]["Code"], code, call.__name__)
        return e
    raise AssertionError(f"{call.__name__} passed, and should be {code}")


def wait(name, **parameters):
    waited.add(name)
    ec2.get_waiter(name).wait(WaiterConfig=FAST, **parameters)


def waits_in_vain(name, **parameters):
    try:
        ec2.get_waiter(name).wait(WaiterConfig={"Delay": 1, "MaxAttempts": 2}, **parameters)
    except WaiterError:
        waited.add(name)
        return
    raise AssertionError(f"the waiter {name} was satisfied")


def places():
    account = session.client("sts", **options).get_caller_identity()
    expect(account["Account"].isdigit() and account["Arn"].startswith("arn:aws:iam::"), account)
    regions = ec2.describe_regions(Filters=[{"Name": "region-name", "Values": [session.region_name]}])["Regions"]
    same([r["RegionName"] for r in regions], [session.region_name])
    zones = ec2.describe_availability_zones(Filters=[{"Name": "state", "Values": ["available"]}])["AvailabilityZones"]
    expect(zones and all(z["ZoneName"].startswith(session.region_name) for z in zones), zones)
    made["zone"] = zones[0]["ZoneName"]
    platforms = ec2.describe_account_attributes(AttributeNames=["supported-platforms"])["AccountAttributes"]
    same(platforms[0]["AttributeValues"][0]["AttributeValue"], "VPC")
    pages = list(ec2.get_paginator("describe_instance_types").paginate(PaginationConfig={"PageSize": 5}))
    types = [t["InstanceType"] for p in pages for t in p["InstanceTypes"]]
    expect(len(pages) > 1 and len(types) == len(set(types)) and "nb1.tiny" in types, types)
    refused("InvalidInstanceType", ec2.describe_instance_types, InstanceTypes=["t9.huge"])


def keys():
    pair = ec2.create_key_pair(KeyName="boto3", KeyType="ed25519", TagSpecifications=tagged("key-pair", "boto3"))
    walk.undo(ec2.delete_key_pair, KeyName="boto3")
    expect("PRIVATE KEY" in pair["KeyMaterial"], pair)
    wait("key_pair_exists", KeyNames=["boto3"])
    refused("InvalidKeyPair.Duplicate", ec2.create_key_pair, KeyName="boto3")
    refused("InvalidKeyPair.NotFound", ec2.describe_key_pairs, KeyNames=["no-such-key"])
    waits_in_vain("key_pair_exists", KeyNames=["no-such-key"])
    shown = ec2.describe_key_pairs(KeyNames=["boto3"], IncludePublicKey=True)["KeyPairs"][0]
    same(shown["KeyPairId"], pair["KeyPairId"])
    ec2.import_key_pair(KeyName="boto3-imported", PublicKeyMaterial=shown["PublicKey"].encode())
    walk.undo(ec2.delete_key_pair, KeyName="boto3-imported")
    found = ec2.describe_key_pairs(Filters=[{"Name": "key-name", "Values": ["boto3*"]}])["KeyPairs"]
    same(sorted(k["KeyName"] for k in found), ["boto3", "boto3-imported"])
    refused("InvalidKey.Format", ec2.import_key_pair, KeyName="boto3-bad", PublicKeyMaterial=b"not a key")


def networks():
    vpc = ec2.create_vpc(CidrBlock="10.31.0.0/16", TagSpecifications=tagged("vpc", "boto3"))["Vpc"]
    made["vpc"] = vpc["VpcId"]
    walk.undo(ec2.delete_vpc, VpcId=made["vpc"])
    wait("vpc_exists", VpcIds=[made["vpc"]])
    wait("vpc_available", VpcIds=[made["vpc"]])
    waits_in_vain("vpc_exists", VpcIds=["vpc-0123456789abcdef0"])
    ec2.modify_vpc_attribute(VpcId=made["vpc"], EnableDnsHostnames={"Value": True})
    for attribute, key in (("enableDnsHostnames", "EnableDnsHostnames"), ("enableDnsSupport", "EnableDnsSupport")):
        same(ec2.describe_vpc_attribute(VpcId=made["vpc"], Attribute=attribute)[key]["Value"], True)
    subnet = ec2.create_subnet(
        VpcId=made["vpc"], CidrBlock="10.31.1.0/24", AvailabilityZone=made["zone"], TagSpecifications=tagged("subnet", "boto3")
    )["Subnet"]
    made["subnet"] = subnet["SubnetId"]
    walk.undo(ec2.delete_subnet, SubnetId=made["subnet"])
    wait("subnet_available", SubnetIds=[made["subnet"]])
    same(subnet["AvailableIpAddressCount"], 251)
    same(ec2.describe_subnets(SubnetIds=[made["subnet"]])["Subnets"][0]["MapPublicIpOnLaunch"], False)
    ec2.modify_subnet_attribute(SubnetId=made["subnet"], MapPublicIpOnLaunch={"Value": False})
    of_vpc = [{"Name": "vpc-id", "Values": [made["vpc"]]}]
    routes = ec2.describe_route_tables(Filters=of_vpc + [{"Name": "association.main", "Values": ["true"]}])["RouteTables"]
    same([r["GatewayId"] for r in routes[0]["Routes"]], ["local"])
    acls = ec2.describe_network_acls(Filters=of_vpc + [{"Name": "default", "Values": ["true"]}])["NetworkAcls"]
    same([a["SubnetId"] for a in acls[0]["Associations"]], [made["subnet"]])
    refused("InvalidVpc.Range", ec2.create_vpc, CidrBlock="10.0.0.0/8")
    refused("InvalidSubnet.Range", ec2.create_subnet, VpcId=made["vpc"], CidrBlock="10.32.0.0/24")
    refused("InvalidSubnet.Conflict", ec2.create_subnet, VpcId=made["vpc"], CidrBlock="10.31.1.128/25")
    refused("InvalidVpcID.NotFound", ec2.describe_vpcs, VpcIds=["vpc-0123456789abcdef0"])
    refused("InvalidSubnetID.NotFound", ec2.describe_subnets, SubnetIds=["subnet-0123456789abcdef0"])


def groups():
    group = ec2.create_security_group(
        VpcId=made["vpc"], GroupName="boto3", Description="of boto3", TagSpecifications=tagged("security-group", "boto3")
    )
    made["group"] = group["GroupId"]
    walk.undo(ec2.delete_security_group, GroupId=made["group"])
    wait("security_group_exists", GroupIds=[made["group"]])
    waits_in_vain("security_group_exists", GroupIds=["sg-0123456789abcdef0"])
    web = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "web"}]}
    peers = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": made["group"]}]}
    ping = {"IpProtocol": "icmp", "FromPort": -1, "ToPort": -1, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    rules = ec2.authorize_security_group_ingress(GroupId=made["group"], IpPermissions=[web, peers, ping])["SecurityGroupRules"]
    same(len({r["SecurityGroupRuleId"] for r in rules}), 3)
    refused("InvalidPermission.Duplicate", ec2.authorize_security_group_ingress, GroupId=made["group"], IpPermissions=[web])
    refused("InvalidGroup.Duplicate", ec2.create_security_group, VpcId=made["vpc"], GroupName="boto3", Description="again")
    refused("InvalidGroup.NotFound", ec2.describe_security_groups, GroupIds=["sg-0123456789abcdef0"])
    shown = ec2.describe_security_groups(GroupIds=[made["group"]])["SecurityGroups"][0]
    same(len(shown["IpPermissions"]), 3)
    expect("FromPort" not in next(p for p in shown["IpPermissions"] if p["IpProtocol"] == "-1"), shown)
    ec2.revoke_security_group_egress(GroupId=made["group"], IpPermissions=shown["IpPermissionsEgress"])
    same(ec2.describe_security_groups(GroupIds=[made["group"]])["SecurityGroups"][0]["IpPermissionsEgress"], [])
    ec2.authorize_security_group_egress(GroupId=made["group"], IpPermissions=shown["IpPermissionsEgress"])
    ec2.revoke_security_group_ingress(GroupId=made["group"], SecurityGroupRuleIds=[rules[0]["SecurityGroupRuleId"]])
    refused("InvalidPermission.NotFound", ec2.revoke_security_group_ingress, GroupId=made["group"], IpPermissions=[web])
    of_group = [{"Name": "group-id", "Values": [made["group"]]}]
    pages = list(ec2.get_paginator("describe_security_group_rules").paginate(Filters=of_group, PaginationConfig={"PageSize": 5}))
    same(sum(len(p["SecurityGroupRules"]) for p in pages), 3)


def images():
    found = ec2.describe_images(Filters=[{"Name": "architecture", "Values": ["x86_64"]}, {"Name": "is-public", "Values": ["true"]}])["Images"]
    base = found[0]
    made["image"] = base["ImageId"]
    wait("image_exists", ImageIds=[made["image"]])
    wait("image_available", ImageIds=[made["image"]])
    waits_in_vain("image_exists", ImageIds=["ami-0123456789abcdef0"])
    same(ec2.describe_images(Owners=["amazon"])["Images"], [])
    refused("InvalidAMIID.NotFound", ec2.describe_images, ImageIds=["ami-0123456789abcdef0"])
    refused("InvalidAMIID.Malformed", ec2.describe_images, ImageIds=["ami-xyz"])


def registration():
    """An image of one's own, of content that the cloud has; shared, taken back, deregistered."""
    base = ec2.describe_images(ImageIds=[made["image"]])["Images"][0]
    root = base["BlockDeviceMappings"][0]
    mapping = [{"DeviceName": root["DeviceName"], "Ebs": {"SnapshotId": root["Ebs"]["SnapshotId"], "VolumeSize": 2}}]
    own = ec2.register_image(Name=RUN, Architecture="x86_64", RootDeviceName=base["RootDeviceName"], BlockDeviceMappings=mapping, VirtualizationType="hvm")["ImageId"]
    walk.undo(ec2.deregister_image, ImageId=own)
    wait("image_available", ImageIds=[own])
    same([i["ImageId"] for i in ec2.describe_images(Owners=["self"])["Images"]], [own])
    refused("InvalidAMIName.Duplicate", ec2.register_image, Name=RUN, BlockDeviceMappings=mapping)
    ec2.modify_image_attribute(ImageId=own, LaunchPermission={"Add": [{"Group": "all"}]})
    same(ec2.describe_image_attribute(ImageId=own, Attribute="launchPermission")["LaunchPermissions"], [{"Group": "all"}])
    ec2.reset_image_attribute(ImageId=own, Attribute="launchPermission")
    same(ec2.describe_image_attribute(ImageId=own, Attribute="launchPermission")["LaunchPermissions"], [])
    ec2.deregister_image(ImageId=own)
    refused("InvalidAMIID.NotFound", ec2.deregister_image, ImageId=own)


def launch():
    parameters = {
        "ImageId": made["image"], "InstanceType": "nb1.tiny", "MinCount": 7, "MaxCount": 7, "KeyName": "boto3", "SubnetId": made["subnet"],
        "SecurityGroupIds": [made["group"]], "UserData": "#!/bin/sh\necho walk\n", "ClientToken": str(uuid.uuid4()),
        "TagSpecifications": tagged("instance", "boto3") + tagged("volume", "boto3") + tagged("network-interface", "boto3"),
    }
    refused("DryRunOperation", ec2.run_instances, DryRun=True, **parameters)
    reservation = ec2.run_instances(**parameters)
    made["instances"] = [i["InstanceId"] for i in reservation["Instances"]]
    made["volumes"] = []
    walk.undo(wait, "instance_terminated", InstanceIds=made["instances"])
    walk.undo(ec2.terminate_instances, InstanceIds=made["instances"])
    same(sorted(i["AmiLaunchIndex"] for i in reservation["Instances"]), list(range(7)))
    same({i["State"]["Name"] for i in reservation["Instances"]}, {"pending"})
    again = ec2.run_instances(**parameters)
    same(again["ReservationId"], reservation["ReservationId"])
    same(sorted(i["InstanceId"] for i in again["Instances"]), sorted(made["instances"]))
    refused("IdempotentParameterMismatch", ec2.run_instances, **{**parameters, "InstanceType": "t3.micro"})
    refused("InvalidAMIID.NotFound", ec2.run_instances, ImageId="ami-0123456789abcdef0", MinCount=1, MaxCount=1)
    refused("InvalidKeyPair.NotFound", ec2.run_instances, ImageId=made["image"], MinCount=1, MaxCount=1, KeyName="no-such-key")
    wait("instance_exists", InstanceIds=made["instances"])
    wait("instance_running", InstanceIds=made["instances"])
    wait("instance_status_ok", InstanceIds=made["instances"])
    wait("system_status_ok", InstanceIds=made["instances"])
    waits_in_vain("instance_exists", InstanceIds=["i-0123456789abcdef0"])
    waits_in_vain("instance_stopped", InstanceIds=made["instances"])


def describe():
    ours = [{"Name": "tag:walk", "Values": [RUN]}]
    pages = list(ec2.get_paginator("describe_instances").paginate(Filters=ours, PaginationConfig={"PageSize": 5}))
    instances = [i for p in pages for r in p["Reservations"] for i in r["Instances"]]
    same(sorted(i["InstanceId"] for i in instances), sorted(made["instances"]))
    expect(len(pages) == 2, len(pages), "pages")
    one = instances[0]
    same((one["KeyName"], one["SubnetId"], one["VpcId"], one["InstanceType"]), ("boto3", made["subnet"], made["vpc"], "nb1.tiny"))
    same([g["GroupId"] for g in one["SecurityGroups"]], [made["group"]])
    same({"Key": "Name", "Value": "boto3"} in one["Tags"], True)
    same(len({i["PrivateIpAddress"] for i in instances}), 7)
    made["volumes"] = [m["Ebs"]["VolumeId"] for i in instances for m in i["BlockDeviceMappings"]]
    wait("volume_in_use", VolumeIds=made["volumes"])
    waits_in_vain("volume_available", VolumeIds=made["volumes"])
    for name, values in (("instance-state-name", ["running"]), ("private-ip-address", ["10.31.1.*"]), ("image-id", [made["image"]]),
                         ("network-interface.subnet-id", [made["subnet"]]), ("instance.group-id", [made["group"]])):
        found = ec2.describe_instances(Filters=ours + [{"Name": name, "Values": values}])["Reservations"]
        same(sum(len(r["Instances"]) for r in found), 7, name)
    same(ec2.describe_instances(Filters=ours + [{"Name": "instance-state-name", "Values": ["stopped"]}])["Reservations"], [])
    interfaces = ec2.describe_network_interfaces(Filters=[{"Name": "attachment.instance-id", "Values": made["instances"]}])["NetworkInterfaces"]
    same(len(interfaces), 7)
    waits_in_vain("network_interface_available", NetworkInterfaceIds=[i["NetworkInterfaceId"] for i in interfaces])
    same(ec2.describe_subnets(SubnetIds=[made["subnet"]])["Subnets"][0]["AvailableIpAddressCount"], 251 - 7)
    refused("InvalidInstanceID.Malformed", ec2.describe_instances, InstanceIds=["i-xyz"])
    refused("InvalidInstanceID.NotFound", ec2.describe_instances, InstanceIds=["i-0123456789abcdef0"])
    refused("InvalidParameterCombination", ec2.describe_instances, InstanceIds=made["instances"], MaxResults=5)
    refused("InvalidParameterValue", ec2.describe_instances, Filters=[{"Name": "no-such-filter", "Values": ["x"]}])
    refused("InvalidNextToken", ec2.describe_instances, NextToken="nonsense")


def attributes():
    one = made["instances"][0]
    ec2.modify_instance_attribute(InstanceId=one, DisableApiTermination={"Value": True})
    same(ec2.describe_instance_attribute(InstanceId=one, Attribute="disableApiTermination")["DisableApiTermination"]["Value"], True)
    refused("OperationNotPermitted", ec2.terminate_instances, InstanceIds=[one])
    ec2.modify_instance_attribute(InstanceId=one, DisableApiTermination={"Value": False})
    ec2.modify_instance_attribute(InstanceId=one, InstanceInitiatedShutdownBehavior={"Value": "terminate"})
    behavior = ec2.describe_instance_attribute(InstanceId=one, Attribute="instanceInitiatedShutdownBehavior")
    same(behavior["InstanceInitiatedShutdownBehavior"]["Value"], "terminate")
    data = ec2.describe_instance_attribute(InstanceId=one, Attribute="userData")["UserData"]["Value"]
    same(base64.b64decode(data), b"#!/bin/sh\necho walk\n")
    refused("IncorrectInstanceState", ec2.modify_instance_attribute, InstanceId=one, UserData={"Value": b"later"})
    same(ec2.describe_instance_attribute(InstanceId=one, Attribute="groupSet")["Groups"][0]["GroupId"], made["group"])
    expect("Output" in ec2.get_console_output(InstanceId=one), "no console")


def power():
    one, others = made["instances"][0], made["instances"][1:]
    address = private_address(one)
    change = ec2.stop_instances(InstanceIds=[one])["StoppingInstances"][0]
    same((change["PreviousState"]["Name"], change["CurrentState"]["Name"]), ("running", "stopping"))
    wait("instance_stopped", InstanceIds=[one])
    ec2.modify_instance_attribute(InstanceId=one, UserData={"Value": b"later"})
    same(ec2.describe_instance_status(InstanceIds=[one])["InstanceStatuses"], [])
    same(ec2.describe_instance_status(InstanceIds=[one], IncludeAllInstances=True)["InstanceStatuses"][0]["InstanceState"]["Name"], "stopped")
    change = ec2.start_instances(InstanceIds=[one])["StartingInstances"][0]
    same((change["PreviousState"]["Name"], change["CurrentState"]["Name"]), ("stopped", "pending"))
    wait("instance_running", InstanceIds=[one])
    same(private_address(one), address)
    ec2.reboot_instances(InstanceIds=others)
    wait("instance_running", InstanceIds=others)


def private_address(instance):
    return ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]["PrivateIpAddress"]


def tags():
    targets = [made["instances"][0], made["vpc"], made["group"], made["volumes"][0]]
    ec2.create_tags(Resources=targets, Tags=[{"Key": "team", "Value": "a"}])
    pages = ec2.get_paginator("describe_tags").paginate(Filters=[{"Name": "key", "Values": ["team"]}], PaginationConfig={"PageSize": 5})
    same(sorted(t["ResourceId"] for p in pages for t in p["Tags"]), sorted(targets))
    ec2.create_tags(Resources=targets, Tags=[{"Key": "team", "Value": "b"}])
    same(len(ec2.describe_tags(Filters=[{"Name": "key", "Values": ["team"]}, {"Name": "value", "Values": ["b"]}])["Tags"]), 4)
    ec2.delete_tags(Resources=targets, Tags=[{"Key": "team"}])
    same(ec2.describe_tags(Filters=[{"Name": "key", "Values": ["team"]}])["Tags"], [])
    refused("InvalidParameterValue", ec2.create_tags, Resources=targets, Tags=[{"Key": "aws:reserved", "Value": "x"}])


def ends():
    refused("DependencyViolation", ec2.delete_subnet, SubnetId=made["subnet"])
    refused("DependencyViolation", ec2.delete_security_group, GroupId=made["group"])
    refused("DependencyViolation", ec2.delete_vpc, VpcId=made["vpc"])
    change = ec2.terminate_instances(InstanceIds=made["instances"])["TerminatingInstances"]
    same({c["CurrentState"]["Name"] for c in change}, {"shutting-down"})
    wait("instance_terminated", InstanceIds=made["instances"])
    wait("volume_deleted", VolumeIds=made["volumes"])
    waits_in_vain("instance_running", InstanceIds=made["instances"])
    ec2.terminate_instances(InstanceIds=made["instances"])
    refused("IncorrectInstanceState", ec2.start_instances, InstanceIds=made["instances"][:1])
    eventually(lambda: gone(ec2.delete_subnet, SubnetId=made["subnet"]), "the subnet is in use")
    ec2.delete_security_group(GroupId=made["group"])
    ec2.delete_vpc(VpcId=made["vpc"])
    refused("InvalidVpcID.NotFound", ec2.delete_vpc, VpcId=made["vpc"])
    refused("InvalidSubnetID.NotFound", ec2.delete_subnet, SubnetId=made["subnet"])
    refused("InvalidGroup.NotFound", ec2.delete_security_group, GroupId=made["group"])
    for name in ("boto3", "boto3-imported", "boto3-imported"):
        ec2.delete_key_pair(KeyName=name)


def gone(call, **parameters):
    try:
        call(**parameters)
    except ClientError as e:
        same(e.response["Error"]["Code"], "DependencyViolation")
        return False
    return True


def waiters():
    """Holds that every waiter of botocore whose action is served was used above."""
    bare = session.client("ec2", endpoint_url=options["endpoint_url"], config=Config(retries={"max_attempts": 1}, parameter_validation=False))
    operations = {xform_name(name): w["operation"] for name, w in waiter_model()["waiters"].items()}
    methods = {operation: method for method, operation in bare.meta.method_to_api_mapping.items()}
    missed = []
    for name in bare.waiter_names:
        if name not in waited and served(getattr(bare, methods[operations[name]])):
            missed.append(name)
    same(missed, [])


def waiter_model():
    return session._session.get_component("data_loader").load_service_model("ec2", "waiters-2")


def served(call):
    try:
        call()
    except ClientError as e:
        return e.response["Error"]["Code"] != "UnsupportedOperation"
    return True


sys.exit(walk.run(places, keys, networks, groups, images, registration, launch, describe, attributes, power, tags, ends, waiters))
