// The tier-1 life through @aws-sdk/client-ec2, with its waiters and paginators.

import assert from "node:assert/strict";
import * as sdk from "@aws-sdk/client-ec2";

const ec2 = new sdk.EC2({ endpoint: process.env.AWS_ENDPOINT_URL, region: process.env.AWS_REGION, maxAttempts: 1 });
const run = `js-${Date.now().toString(16)}`; // terminated instances of an earlier run are still visible
const made = {};
const undos = [];
const waiting = { client: ec2, maxWaitTime: 180, minDelay: 1, maxDelay: 1 };

const tagged = (kind) => [{ ResourceType: kind, Tags: [{ Key: "walk", Value: run }] }];
const filtered = (Name, ...Values) => [{ Name, Values }];

// The SDK types an error by its code: name is the code.
async function refused(code, call) {
  await assert.rejects(call, (e) => {
    assert.ok(e instanceof sdk.EC2ServiceException, e.stack);
    assert.equal(e.name, code);
    assert.ok(e.$metadata.requestId, "no request id");
    return true;
  });
}

async function all(pages, list) {
  const found = [];
  for await (const page of pages) found.push(list(page));
  return found;
}

const steps = {
  async places() {
    const zones = await ec2.describeAvailabilityZones({});
    made.zone = zones.AvailabilityZones[0].ZoneName;
    const pages = await all(sdk.paginateDescribeInstanceTypes({ client: ec2, pageSize: 5 }, {}), (p) => p.InstanceTypes.map((t) => t.InstanceType));
    assert.ok(pages.length > 1 && pages.flat().includes("nb1.tiny"));
    assert.equal(new Set(pages.flat()).size, pages.flat().length);
  },

  async keys() {
    const pair = await ec2.createKeyPair({ KeyName: "js", KeyType: "ed25519", TagSpecifications: tagged("key-pair") });
    undos.push(() => ec2.deleteKeyPair({ KeyName: "js" }));
    assert.match(pair.KeyMaterial, /PRIVATE KEY/);
    await sdk.waitUntilKeyPairExists(waiting, { KeyNames: ["js"] });
    await refused("InvalidKeyPair.Duplicate", ec2.createKeyPair({ KeyName: "js" }));
    await refused("InvalidKeyPair.NotFound", ec2.describeKeyPairs({ KeyNames: ["no-such-key"] }));
  },

  async networks() {
    made.vpc = (await ec2.createVpc({ CidrBlock: "10.34.0.0/16", TagSpecifications: tagged("vpc") })).Vpc.VpcId;
    undos.push(() => ec2.deleteVpc({ VpcId: made.vpc }));
    await sdk.waitUntilVpcExists(waiting, { VpcIds: [made.vpc] });
    await sdk.waitUntilVpcAvailable(waiting, { VpcIds: [made.vpc] });
    await ec2.modifyVpcAttribute({ VpcId: made.vpc, EnableDnsHostnames: { Value: true } });
    const attribute = await ec2.describeVpcAttribute({ VpcId: made.vpc, Attribute: "enableDnsHostnames" });
    assert.equal(attribute.EnableDnsHostnames.Value, true);
    const subnet = await ec2.createSubnet({ VpcId: made.vpc, CidrBlock: "10.34.1.0/24", AvailabilityZone: made.zone, TagSpecifications: tagged("subnet") });
    made.subnet = subnet.Subnet.SubnetId;
    undos.push(() => ec2.deleteSubnet({ SubnetId: made.subnet }));
    await sdk.waitUntilSubnetAvailable(waiting, { SubnetIds: [made.subnet] });
    await refused("InvalidSubnet.Conflict", ec2.createSubnet({ VpcId: made.vpc, CidrBlock: "10.34.1.0/26" }));
    await refused("InvalidVpcID.NotFound", ec2.describeVpcs({ VpcIds: ["vpc-0123456789abcdef0"] }));
  },

  async groups() {
    made.group = (await ec2.createSecurityGroup({ VpcId: made.vpc, GroupName: "js", Description: "of JavaScript" })).GroupId;
    undos.push(() => ec2.deleteSecurityGroup({ GroupId: made.group }));
    await sdk.waitUntilSecurityGroupExists(waiting, { GroupIds: [made.group] });
    const web = { GroupId: made.group, IpPermissions: [{ IpProtocol: "tcp", FromPort: 443, ToPort: 443, IpRanges: [{ CidrIp: "0.0.0.0/0", Description: "web" }] }] };
    const rules = (await ec2.authorizeSecurityGroupIngress(web)).SecurityGroupRules;
    assert.equal(rules[0].Description, "web");
    await refused("InvalidPermission.Duplicate", ec2.authorizeSecurityGroupIngress(web));
    await ec2.authorizeSecurityGroupIngress({ GroupId: made.group, IpPermissions: [{ IpProtocol: "-1", UserIdGroupPairs: [{ GroupId: made.group }] }] });
    await ec2.revokeSecurityGroupIngress({ GroupId: made.group, SecurityGroupRuleIds: [rules[0].SecurityGroupRuleId] });
    await refused("InvalidPermission.NotFound", ec2.revokeSecurityGroupIngress(web));
    const left = await all(sdk.paginateDescribeSecurityGroupRules({ client: ec2, pageSize: 5 }, { Filters: filtered("group-id", made.group) }), (p) => p.SecurityGroupRules);
    assert.equal(left.flat().length, 2);
  },

  async images() {
    made.image = (await ec2.describeImages({ Filters: filtered("is-public", "true") })).Images[0].ImageId;
    await sdk.waitUntilImageAvailable(waiting, { ImageIds: [made.image] });
    await refused("InvalidAMIID.NotFound", ec2.describeImages({ ImageIds: ["ami-0123456789abcdef0"] }));
  },

  async registration() {
    const base = (await ec2.describeImages({ ImageIds: [made.image] })).Images[0];
    const own = (await ec2.registerImage({ Name: run, ImageLocation: base.ImageLocation, Architecture: "x86_64", RootDeviceName: base.RootDeviceName })).ImageId;
    undos.push(() => ec2.deregisterImage({ ImageId: own }));
    await sdk.waitUntilImageAvailable(waiting, { ImageIds: [own] });
    await ec2.modifyImageAttribute({ ImageId: own, LaunchPermission: { Add: [{ Group: "all" }] } });
    const shown = await ec2.describeImageAttribute({ ImageId: own, Attribute: "launchPermission" });
    assert.deepEqual(shown.LaunchPermissions, [{ Group: "all" }]);
    await ec2.deregisterImage({ ImageId: own });
    await refused("InvalidAMIID.NotFound", ec2.deregisterImage({ ImageId: own }));
  },

  async launch() {
    const request = {
      ImageId: made.image, InstanceType: "nb1.tiny", MinCount: 6, MaxCount: 6, KeyName: "js", SubnetId: made.subnet, SecurityGroupIds: [made.group],
      UserData: Buffer.from("#!/bin/sh").toString("base64"), ClientToken: run, TagSpecifications: [...tagged("instance"), ...tagged("volume")],
    };
    await refused("DryRunOperation", ec2.runInstances({ ...request, DryRun: true }));
    const reservation = await ec2.runInstances(request);
    made.instances = reservation.Instances.map((i) => i.InstanceId);
    undos.push(terminate);
    assert.ok(reservation.Instances[0].LaunchTime instanceof Date);
    assert.equal((await ec2.runInstances(request)).ReservationId, reservation.ReservationId);
    await refused("IdempotentParameterMismatch", ec2.runInstances({ ...request, InstanceType: "t3.micro" }));
    await sdk.waitUntilInstanceExists(waiting, { InstanceIds: made.instances });
    await sdk.waitUntilInstanceRunning(waiting, { InstanceIds: made.instances });
    await sdk.waitUntilInstanceStatusOk(waiting, { InstanceIds: made.instances });
    await sdk.waitUntilSystemStatusOk(waiting, { InstanceIds: made.instances });
  },

  async describe() {
    const pages = await all(sdk.paginateDescribeInstances({ client: ec2, pageSize: 5 }, { Filters: filtered("tag:walk", run) }), (p) => p.Reservations.flatMap((r) => r.Instances));
    assert.equal(pages.length, 2);
    assert.deepEqual(pages.flat().map((i) => i.InstanceId).sort(), [...made.instances].sort());
    made.volumes = pages.flat().map((i) => i.BlockDeviceMappings[0].Ebs.VolumeId);
    await sdk.waitUntilVolumeInUse(waiting, { VolumeIds: made.volumes });
    await refused("InvalidInstanceID.Malformed", ec2.describeInstances({ InstanceIds: ["i-xyz"] }));
    await refused("InvalidInstanceID.NotFound", ec2.describeInstances({ InstanceIds: ["i-0123456789abcdef0"] }));
    await refused("InvalidParameterCombination", ec2.describeInstances({ InstanceIds: made.instances, MaxResults: 5 }));
    await refused("InvalidParameterValue", ec2.describeInstances({ Filters: filtered("no-such-filter", "x") }));
  },

  async attributes() {
    const InstanceId = made.instances[0];
    await ec2.modifyInstanceAttribute({ InstanceId, DisableApiTermination: { Value: true } });
    await refused("OperationNotPermitted", ec2.terminateInstances({ InstanceIds: [InstanceId] }));
    await ec2.modifyInstanceAttribute({ InstanceId, DisableApiTermination: { Value: false } });
    const shown = await ec2.describeInstanceAttribute({ InstanceId, Attribute: "userData" });
    assert.equal(Buffer.from(shown.UserData.Value, "base64").toString(), "#!/bin/sh");
    await refused("IncorrectInstanceState", ec2.modifyInstanceAttribute({ InstanceId, UserData: { Value: Buffer.from("x") } }));
  },

  async power() {
    const [one, ...others] = made.instances;
    await ec2.stopInstances({ InstanceIds: [one] });
    await sdk.waitUntilInstanceStopped(waiting, { InstanceIds: [one] });
    await ec2.startInstances({ InstanceIds: [one] });
    await ec2.rebootInstances({ InstanceIds: others });
    await sdk.waitUntilInstanceRunning(waiting, { InstanceIds: made.instances });
    assert.ok("Output" in (await ec2.getConsoleOutput({ InstanceId: one })));
  },

  async tags() {
    const targets = { Resources: [made.instances[0], made.vpc], Tags: [{ Key: "team", Value: "ä b" }] };
    const count = async () => (await ec2.describeTags({ Filters: [...filtered("key", "team"), ...filtered("value", "ä *")] })).Tags.length;
    await ec2.createTags(targets);
    assert.equal(await count(), 2);
    await ec2.deleteTags(targets);
    assert.equal(await count(), 0);
  },

  async ends() {
    await refused("DependencyViolation", ec2.deleteSubnet({ SubnetId: made.subnet }));
    await refused("DependencyViolation", ec2.deleteSecurityGroup({ GroupId: made.group }));
    await terminate();
    await sdk.waitUntilVolumeDeleted(waiting, { VolumeIds: made.volumes });
    await subnetGone();
    await ec2.deleteSecurityGroup({ GroupId: made.group });
    await ec2.deleteVpc({ VpcId: made.vpc });
    await refused("InvalidVpcID.NotFound", ec2.deleteVpc({ VpcId: made.vpc }));
    await ec2.deleteKeyPair({ KeyName: "js" });
    await ec2.deleteKeyPair({ KeyName: "js" });
  },
};

async function terminate() {
  await ec2.terminateInstances({ InstanceIds: made.instances });
  await sdk.waitUntilInstanceTerminated(waiting, { InstanceIds: made.instances });
}

// A terminated instance's interface goes once its host has confirmed.
async function subnetGone() {
  for (const deadline = Date.now() + 60_000; ; ) {
    try {
      return await ec2.deleteSubnet({ SubnetId: made.subnet });
    } catch (e) {
      if (e.name !== "DependencyViolation" || Date.now() > deadline) throw e;
      await new Promise((done) => setTimeout(done, 200));
    }
  }
}

async function takeBack() {
  for (const undo of undos.reverse()) await undo().catch(() => {});
}

const begun = Date.now();
for (const [name, step] of Object.entries(steps)) {
  try {
    await step();
    console.log(`check clients.js_${name} ok`);
  } catch (e) {
    console.log(`check clients.js_${name} FAIL ${e.stack}`);
    await takeBack();
    console.log("check clients.js FAIL");
    process.exit(1);
  }
}
console.log(`check clients.js ok (${Object.keys(steps).length} steps, ${Math.round((Date.now() - begun) / 1000)} s)`);
