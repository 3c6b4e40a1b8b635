package main

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nimbrel/nimbrel/test/clients/internal/steps"
)

func (s *stack) createVPC(ctx context.Context) error {
	made, err := s.ec2.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: aws.String("10.36.0.0/16"), InstanceTenancy: "default", AmazonProvidedIpv6CidrBlock: aws.Bool(false), TagSpecifications: tags("vpc")})
	if err != nil {
		return err
	}
	s.vpc = *made.Vpc.VpcId
	s.Undo(func(ctx context.Context) error { return s.deleteVPC(ctx) })
	err = steps.Eventually(ctx, "the VPC is available", func() (bool, error) {
		shown, err := s.ec2.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{VpcIds: []string{s.vpc}})
		return err == nil && shown.Vpcs[0].State == "available", err
	})
	if err != nil {
		return err
	}
	names := &types.AttributeBooleanValue{Value: aws.Bool(true)}
	if _, err := s.ec2.ModifyVpcAttribute(ctx, &ec2.ModifyVpcAttributeInput{VpcId: &s.vpc, EnableDnsHostnames: names}); err != nil {
		return err
	}
	return s.readVPC(ctx, map[string]any{})
}

// vpcAttributes are those that every refresh of a VPC reads.
var vpcAttributes = []types.VpcAttributeName{"enableDnsHostnames", "enableDnsSupport", "enableNetworkAddressUsageMetrics"}

func (s *stack) readVPC(ctx context.Context, state map[string]any) error {
	shown, err := s.ec2.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{VpcIds: []string{s.vpc}})
	if err != nil {
		return err
	}
	state["vpc"] = shown.Vpcs
	for _, name := range vpcAttributes {
		a, err := s.ec2.DescribeVpcAttribute(ctx, &ec2.DescribeVpcAttributeInput{VpcId: &s.vpc, Attribute: name})
		if err != nil {
			return err
		}
		state["vpc "+string(name)] = []*types.AttributeBooleanValue{a.EnableDnsHostnames, a.EnableDnsSupport, a.EnableNetworkAddressUsageMetrics}
	}
	ofVPC := filter("vpc-id", s.vpc)
	acls, err := s.ec2.DescribeNetworkAcls(ctx, &ec2.DescribeNetworkAclsInput{Filters: append(filter("default", "true"), ofVPC...)})
	if err != nil {
		return err
	}
	routes, err := s.ec2.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{Filters: append(filter("association.main", "true"), ofVPC...)})
	if err != nil {
		return err
	}
	groups, err := s.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{Filters: append(filter("group-name", "default"), ofVPC...)})
	if err != nil {
		return err
	}
	state["acl"], state["routes"], state["default group"] = acls.NetworkAcls, routes.RouteTables, groups.SecurityGroups
	return steps.Expect(len(acls.NetworkAcls) == 1 && len(routes.RouteTables) == 1 && len(groups.SecurityGroups) == 1,
		"%d default ACLs, %d main route tables, %d default groups", len(acls.NetworkAcls), len(routes.RouteTables), len(groups.SecurityGroups))
}

func (s *stack) createSubnet(ctx context.Context) error {
	made, err := s.ec2.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: &s.vpc, CidrBlock: aws.String("10.36.1.0/24"), TagSpecifications: tags("subnet")})
	if err != nil {
		return err
	}
	s.subnet = *made.Subnet.SubnetId
	s.Undo(func(ctx context.Context) error { return s.deleteSubnet(ctx) })
	return steps.Eventually(ctx, "the subnet is available", func() (bool, error) {
		shown, err := s.ec2.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: []string{s.subnet}})
		return err == nil && shown.Subnets[0].State == "available", err
	})
}

func (s *stack) readSubnet(ctx context.Context, state map[string]any) error {
	shown, err := s.ec2.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: []string{s.subnet}})
	if err != nil {
		return err
	}
	state["subnet"] = shown.Subnets
	return steps.Expect(shown.Subnets[0].MapPublicIpOnLaunch != nil && shown.Subnets[0].AssignIpv6AddressOnCreation != nil && shown.Subnets[0].SubnetArn != nil,
		"the subnet lacks what a refresh stores: %+v", shown.Subnets[0])
}

// createGroup takes the rule away that every group begins with, as the provider does, and adds those of the configuration.
func (s *stack) createGroup(ctx context.Context) error {
	made, err := s.ec2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{VpcId: &s.vpc, GroupName: aws.String("terraform"), Description: aws.String("Managed by Terraform"), TagSpecifications: tags("security-group")})
	if err != nil {
		return err
	}
	s.group = *made.GroupId
	s.Undo(func(ctx context.Context) error { return s.deleteGroup(ctx) })
	all := []types.IpPermission{{IpProtocol: aws.String("-1"), IpRanges: []types.IpRange{{CidrIp: aws.String("0.0.0.0/0")}}}}
	if _, err := s.ec2.RevokeSecurityGroupEgress(ctx, &ec2.RevokeSecurityGroupEgressInput{GroupId: &s.group, IpPermissions: all}); err != nil {
		return err
	}
	all[0].IpRanges[0].Description = aws.String("out")
	if _, err := s.ec2.AuthorizeSecurityGroupEgress(ctx, &ec2.AuthorizeSecurityGroupEgressInput{GroupId: &s.group, IpPermissions: all}); err != nil {
		return err
	}
	return s.allow(ctx, 22)
}

func (s *stack) allow(ctx context.Context, port int32) error {
	_, err := s.ec2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &s.group, IpPermissions: rule(port)})
	return err
}

func rule(port int32) []types.IpPermission {
	return []types.IpPermission{{IpProtocol: aws.String("tcp"), FromPort: &port, ToPort: &port, IpRanges: []types.IpRange{{CidrIp: aws.String("0.0.0.0/0")}}}}
}

func (s *stack) readGroup(ctx context.Context, state map[string]any) error {
	shown, err := s.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{GroupIds: []string{s.group}})
	if err != nil {
		return err
	}
	state["group"] = shown.SecurityGroups
	g := shown.SecurityGroups[0]
	return steps.Expect(len(g.IpPermissions) == 1 && len(g.IpPermissionsEgress) == 1 && aws.ToString(g.IpPermissionsEgress[0].IpRanges[0].Description) == "out",
		"the group's rules: %+v", g)
}

func (s *stack) createKey(ctx context.Context) error {
	_, err := s.ec2.ImportKeyPair(ctx, &ec2.ImportKeyPairInput{KeyName: aws.String("terraform"), PublicKeyMaterial: []byte(publicKey), TagSpecifications: tags("key-pair")})
	if err == nil {
		s.Undo(func(ctx context.Context) error { return s.deleteKey(ctx) })
	}
	return err
}

func (s *stack) readKey(ctx context.Context, state map[string]any) error {
	shown, err := s.ec2.DescribeKeyPairs(ctx, &ec2.DescribeKeyPairsInput{KeyNames: []string{"terraform"}})
	if err != nil {
		return err
	}
	state["key"] = shown.KeyPairs
	return nil
}

func (s *stack) deleteVPC(ctx context.Context) error {
	_, err := s.ec2.DeleteVpc(ctx, &ec2.DeleteVpcInput{VpcId: &s.vpc})
	return err
}

func (s *stack) deleteSubnet(ctx context.Context) error {
	_, err := s.ec2.DeleteSubnet(ctx, &ec2.DeleteSubnetInput{SubnetId: &s.subnet})
	return err
}

func (s *stack) deleteGroup(ctx context.Context) error {
	_, err := s.ec2.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: &s.group})
	return err
}

func (s *stack) deleteKey(ctx context.Context) error {
	_, err := s.ec2.DeleteKeyPair(ctx, &ec2.DeleteKeyPairInput{KeyName: aws.String("terraform")})
	return err
}

// retried deletes as the provider does: DependencyViolation means that something is still going.
func retried(ctx context.Context, what string, remove func(context.Context) error) error {
	return steps.Eventually(ctx, fmt.Sprintf("delete %s", what), func() (bool, error) {
		err := remove(ctx)
		if steps.Code(err) == "DependencyViolation" {
			return false, nil
		}
		return err == nil, err
	})
}
