package server_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/compute/computetest"
)

// TestAWSCLI drives the door with the aws CLI, waiters included.
func TestAWSCLI(t *testing.T) {
	path, err := exec.LookPath("aws")
	if err != nil {
		t.Skip("no aws CLI on PATH")
	}
	d := openDoor(t, 2)
	aws := func(args ...string) string {
		t.Helper()
		out, err := d.run(path, append(args, "--endpoint-url", d.url, "--output", "text")...)
		if err != nil {
			t.Fatalf("aws %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(out)
	}
	if got := aws("sts", "get-caller-identity", "--query", "Account"); got != string(d.Account) {
		t.Errorf("caller identity %q", got)
	}
	network := aws("ec2", "create-vpc", "--cidr-block", "10.8.0.0/16", "--query", "Vpc.VpcId")
	aws("ec2", "wait", "vpc-available", "--vpc-ids", network)
	subnet := aws("ec2", "create-subnet", "--vpc-id", network, "--cidr-block", "10.8.1.0/24", "--query", "Subnet.SubnetId")
	group := aws("ec2", "create-security-group", "--vpc-id", network, "--group-name", "cli", "--description", "of the CLI", "--query", "GroupId")
	aws("ec2", "authorize-security-group-ingress", "--group-id", group, "--protocol", "tcp", "--port", "22", "--cidr", "0.0.0.0/0")
	aws("ec2", "authorize-security-group-ingress", "--group-id", group, "--protocol", "icmp", "--port", "-1", "--source-group", group)
	key := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(key, []byte(aws("ec2", "create-key-pair", "--key-name", "cli", "--key-type", "ed25519", "--query", "KeyMaterial")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	id := aws("ec2", "run-instances", "--image-id", string(d.Image), "--instance-type", "nb1.tiny", "--key-name", "cli", "--subnet-id", subnet, "--security-group-ids", group,
		"--user-data", "#!/bin/sh", "--tag-specifications", "ResourceType=instance,Tags=[{Key=Name,Value=cli}]", "--private-ip-address", "10.8.1.20",
		"--metadata-options", "HttpTokens=required", "--query", "Instances[0].InstanceId")
	aws("ec2", "wait", "instance-running", "--instance-ids", id)
	aws("ec2", "wait", "instance-status-ok", "--instance-ids", id)
	query := "Reservations[].Instances[].[State.Name,PrivateIpAddress,KeyName,Tags[0].Value,MetadataOptions.HttpTokens,SecurityGroups[0].GroupName]"
	if got := aws("ec2", "describe-instances", "--filters", "Name=tag:Name,Values=cli", "--query", query); got != "running\t10.8.1.20\tcli\tcli\trequired\tcli" {
		t.Errorf("describe-instances: %q", got)
	}
	if got := aws("ec2", "get-console-output", "--instance-id", id, "--query", "Output"); !strings.Contains(got, "console of host/") {
		t.Errorf("console: %q", got)
	}
	if out, err := d.run(path, "ec2", "terminate-instances", "--instance-ids", id, "--dry-run", "--endpoint-url", d.url); err == nil || !strings.Contains(out, "DryRunOperation") {
		t.Errorf("dry run: %v %s", err, out)
	}
	aws("ec2", "create-tags", "--resources", id, network, "--tags", "Key=team,Value=a")
	if got := aws("ec2", "describe-tags", "--filters", "Name=key,Values=team", "--query", "Tags[].ResourceType"); got != "instance\tvpc" {
		t.Errorf("tags: %q", got)
	}
	if got := aws("ec2", "describe-instance-types", "--page-size", "5", "--query", "length(InstanceTypes)"); got != "5\n5\n5\n1" && got != "16" {
		t.Errorf("pages of types: %q", got)
	}
	aws("ec2", "terminate-instances", "--instance-ids", id)
	aws("ec2", "wait", "instance-terminated", "--instance-ids", id)
	t.Logf("the aws CLI ran %s in %s", id, computetest.Region)
}

// pythonStory uses boto3's resources, paginators and waiters, and prints what it saw as JSON.
const pythonStory = `
import boto3, json, os, sys
from botocore.config import Config
from botocore.exceptions import ClientError
url, image, subnet = sys.argv[1:4]
ec2 = boto3.resource("ec2", endpoint_url=url, config=Config(retries={"max_attempts": 1}))
client = ec2.meta.client
made = ec2.create_instances(ImageId=image, InstanceType="nb1.tiny", MinCount=3, MaxCount=3, SubnetId=subnet)
for i in made:
    i.wait_until_running()
    i.reload()
pages = list(client.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 5}))
vpc = ec2.Vpc(made[0].vpc_id)
group = vpc.create_security_group(GroupName="py", Description="of boto3")
group.authorize_ingress(IpPermissions=[{"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "web"}]}])
group.reload()
codes = []
for call, args in [(client.describe_instances, {"InstanceIds": ["i-0123456789abcdef0"]}), (client.create_internet_gateway, {}), (client.create_vpc, {"CidrBlock": "10.0.0.0/8"})]:
    try:
        call(**args)
    except ClientError as e:
        codes.append(e.response["Error"]["Code"])
seen = {
    "states": [i.state["Name"] for i in made],
    "launch_indexes": [i.ami_launch_index for i in made],
    "instances": sum(len(r["Instances"]) for p in pages for r in p["Reservations"]),
    "volumes": [len(list(i.volumes.all())) for i in made],
    "interfaces": [len(i.network_interfaces) for i in made],
    "subnets": [s.id for s in vpc.subnets.all()],
    "permission": [p["IpRanges"][0]["Description"] for p in group.ip_permissions],
    "codes": codes,
    "regions": [r["RegionName"] for r in client.describe_regions()["Regions"]],
    "main_routes": [r.destination_cidr_block for t in vpc.route_tables.all() for r in t.routes],
    "acl_rules": [e["RuleNumber"] for a in vpc.network_acls.all() for e in a.entries],
}
group.delete()
for i in made:
    i.terminate()
for i in made:
    i.wait_until_terminated()
print(json.dumps(seen))
`

// TestBoto3 drives the door with boto3.
func TestBoto3(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 on PATH")
	}
	if err := exec.CommandContext(t.Context(), python, "-c", "import boto3").Run(); err != nil {
		t.Skip("python3 has no boto3")
	}
	d := openDoor(t, 2)
	out, err := d.run(python, "-c", pythonStory, d.url, string(d.Image), string(d.Subnet))
	if err != nil {
		t.Fatalf("boto3: %v: %s", err, out)
	}
	var seen map[string]any
	if err := json.Unmarshal([]byte(out), &seen); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	want := `{"acl_rules":[100,32767,100,32767],"codes":["InvalidInstanceID.NotFound","UnsupportedOperation","InvalidVpc.Range"],"instances":3,"interfaces":[1,1,1],` +
		`"launch_indexes":[0,1,2],"main_routes":["10.0.0.0/16"],"permission":["web"],"regions":["` + computetest.Region + `"],"states":["running","running","running"],` +
		`"subnets":["` + string(d.Subnet) + `"],"volumes":[1,1,1]}`
	if got, _ := json.Marshal(seen); string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// run starts a client with the door's key and no configuration of the machine's.
func (d *door) run(path string, args ...string) (string, error) {
	cmd := exec.CommandContext(d.ctx, path, args...)
	cmd.Env = append(cleanEnv(), "AWS_ACCESS_KEY_ID="+d.key, "AWS_SECRET_ACCESS_KEY="+d.secret, "AWS_REGION="+computetest.Region, "AWS_DEFAULT_REGION="+computetest.Region,
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=", "NO_PROXY=127.0.0.1", "PYTHONWARNINGS=ignore")
	out, err := cmd.CombinedOutput()
	if err != nil && d.ctx.Err() != nil {
		err = context.Cause(d.ctx)
	}
	return string(out), err
}

// cleanEnv is the environment without anything of AWS's.
func cleanEnv() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "AWS_") {
			env = append(env, v)
		}
	}
	return env
}
