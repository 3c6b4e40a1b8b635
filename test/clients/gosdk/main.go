// Gosdk walks the tier-1 life through aws-sdk-go-v2, with its waiters and paginators.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/nimbrel/nimbrel/test/clients/internal/steps"
)

// patience is how long one waiter may wait on a loaded machine; its polls are a second apart.
const patience = 3 * time.Minute

// Ids that nothing has.
const (
	noInstance = "i-0123456789abcdef0"
	noVPC      = "vpc-0123456789abcdef0"
	noImage    = "ami-0123456789abcdef0"
)

type life struct {
	steps.Walk
	ec2 *ec2.Client
	sts *sts.Client

	zone, vpc, subnet, group, image string
	instances, volumes              []string
}

func main() {
	// The SDK's retries stay on: without them it ends calls with "use of closed network connection", whoever serves (decision
	// 0016 has the measurement).
	settings, err := config.LoadDefaultConfig(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	l := &life{Walk: steps.Walk{Client: "gosdk"}, ec2: ec2.NewFromConfig(settings), sts: sts.NewFromConfig(settings)}
	l.Main([]steps.Step{
		{Name: "places", Do: l.places}, {Name: "keys", Do: l.keys}, {Name: "networks", Do: l.networks}, {Name: "groups", Do: l.groups},
		{Name: "images", Do: l.images}, {Name: "registration", Do: l.registration}, {Name: "launch", Do: l.launch}, {Name: "describe", Do: l.describe}, {Name: "attributes", Do: l.attributes},
		{Name: "power", Do: l.power}, {Name: "tags", Do: l.tags}, {Name: "ends", Do: l.ends},
	}...)
}

func (l *life) places(ctx context.Context) error {
	who, err := l.sts.GetCallerIdentity(ctx, nil)
	if err != nil {
		return err
	}
	if err := steps.Expect(len(aws.ToString(who.Account)) == 12, "account %v", who.Account); err != nil {
		return err
	}
	zones, err := l.ec2.DescribeAvailabilityZones(ctx, nil)
	if err != nil || len(zones.AvailabilityZones) == 0 {
		return fmt.Errorf("no zones: %w", err)
	}
	l.zone = aws.ToString(zones.AvailabilityZones[0].ZoneName)
	var names []string
	pages := ec2.NewDescribeInstanceTypesPaginator(l.ec2, &ec2.DescribeInstanceTypesInput{}, func(o *ec2.DescribeInstanceTypesPaginatorOptions) { o.Limit = 5 })
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, t := range page.InstanceTypes {
			names = append(names, string(t.InstanceType))
		}
	}
	slices.Sort(names)
	return steps.Expect(slices.Contains(names, "nb1.tiny") && len(names) == len(slices.Compact(names)), "types %v", names)
}

func (l *life) keys(ctx context.Context) error {
	named := &ec2.CreateKeyPairInput{KeyName: aws.String("gosdk"), KeyType: "ed25519", TagSpecifications: tagged("key-pair")}
	if _, err := l.ec2.CreateKeyPair(ctx, named); err != nil {
		return err
	}
	l.Undo(func(ctx context.Context) error { return l.deleteKey(ctx) })
	wait := ec2.NewKeyPairExistsWaiter(l.ec2, func(o *ec2.KeyPairExistsWaiterOptions) { o.MinDelay, o.MaxDelay = time.Second, time.Second })
	if err := wait.Wait(ctx, &ec2.DescribeKeyPairsInput{KeyNames: []string{"gosdk"}}, patience); err != nil {
		return err
	}
	_, err := l.ec2.CreateKeyPair(ctx, named)
	if err := steps.Refused("InvalidKeyPair.Duplicate", err); err != nil {
		return err
	}
	_, err = l.ec2.DescribeKeyPairs(ctx, &ec2.DescribeKeyPairsInput{KeyNames: []string{"no-such-key"}})
	return steps.Refused("InvalidKeyPair.NotFound", err)
}

func (l *life) deleteKey(ctx context.Context) error {
	_, err := l.ec2.DeleteKeyPair(ctx, &ec2.DeleteKeyPairInput{KeyName: aws.String("gosdk")})
	return err
}
