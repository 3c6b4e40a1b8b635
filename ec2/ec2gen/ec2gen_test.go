package ec2gen

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/ec2/errs"
)

// recorder answers what the test set and keeps what it was given.
type recorder struct {
	Unsupported
	in  any
	out any
}

func (r *recorder) RunInstances(_ context.Context, in *RunInstancesInput) (*RunInstancesOutput, error) {
	r.in = in
	return r.out.(*RunInstancesOutput), nil
}

func (r *recorder) DescribeInstances(_ context.Context, in *DescribeInstancesInput) (*DescribeInstancesOutput, error) {
	r.in = in
	return &DescribeInstancesOutput{}, nil
}

func (r *recorder) ModifyInstanceAttribute(_ context.Context, in *ModifyInstanceAttributeInput) (*ModifyInstanceAttributeOutput, error) {
	r.in = in
	return nil, nil
}

func query(t *testing.T, s string) url.Values {
	t.Helper()
	params, err := url.ParseQuery(s)
	if err != nil {
		t.Fatal(err)
	}
	return params
}

func TestDecodeRunInstances(t *testing.T) {
	api := &recorder{out: &RunInstancesOutput{}}
	_, err := Actions["RunInstances"].Serve(t.Context(), api, query(t, "ImageId=ami-1&MinCount=1&MaxCount=2&InstanceType=nb1.tiny"+
		"&BlockDeviceMapping.1.DeviceName=/dev/xvda&BlockDeviceMapping.1.Ebs.VolumeSize=8&BlockDeviceMapping.1.Ebs.DeleteOnTermination=false"+
		"&NetworkInterface.1.DeviceIndex=0&NetworkInterface.1.SecurityGroupId.1=sg-1&NetworkInterface.1.PrivateIpAddresses.1.PrivateIpAddress=10.0.0.4"+
		"&TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=a&TagSpecification.1.Tag.1.Value=&SecurityGroupId="), "r-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &RunInstancesInput{
		ImageId: new("ami-1"), MinCount: new(int32(1)), MaxCount: new(int32(2)), InstanceType: new("nb1.tiny"),
		BlockDeviceMappings: []BlockDeviceMapping{{DeviceName: new("/dev/xvda"), Ebs: &EbsBlockDevice{VolumeSize: new(int32(8)), DeleteOnTermination: new(false)}}},
		NetworkInterfaces: []InstanceNetworkInterfaceSpecification{{DeviceIndex: new(int32(0)), Groups: []string{"sg-1"},
			PrivateIpAddresses: []PrivateIpAddressSpecification{{PrivateIpAddress: new("10.0.0.4")}}}},
		TagSpecifications: []TagSpecification{{ResourceType: new(ResourceTypeInstance), Tags: []Tag{{Key: new("a"), Value: new("")}}}},
		SecurityGroupIds:  []string{},
	}
	if !reflect.DeepEqual(api.in, want) {
		t.Errorf("decoded %+v, want %+v", api.in, want)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, c := range []struct{ action, params, code, names string }{
		{"RunInstances", "MinCount=1", errs.MissingParameter, "MaxCount"},
		{"RunInstances", "MinCount=one&MaxCount=1", errs.InvalidParameterValue, "MinCount"},
		{"RunInstances", "MinCount=1&MaxCount=99999999999", errs.InvalidParameterValue, "MaxCount"},
		{"RunInstances", "MinCount=1&MaxCount=1&ImageID=ami-1", errs.UnknownParameter, "ImageID"},
		{"RunInstances", "MinCount=1&MaxCount=1&imageId=ami-1", errs.UnknownParameter, "imageId"},
		{"RunInstances", "MinCount=1&MaxCount=1&ImageId.1=ami-1", errs.UnknownParameter, "ImageId.1"},
		{"RunInstances", "MinCount=1&MaxCount=1&Placement=x", errs.InvalidParameterValue, "Placement"},
		{"RunInstances", "MinCount=1&MaxCount=1&Placement.Colour=x", errs.UnknownParameter, "Placement.Colour"},
		{"RunInstances", "MinCount=1&MaxCount=1&EbsOptimized=yes", errs.InvalidParameterValue, "EbsOptimized"},
		{"RunInstances", "MinCount=1&MaxCount=1&TagSpecification.1.ResourceType=dog", errs.InvalidParameterValue, "TagSpecification.1.ResourceType"},
		{"DescribeInstances", "InstanceId=i-1", errs.InvalidParameterValue, "InstanceId.1"},
		{"DescribeInstances", "InstanceId.0=i-1", errs.InvalidParameterValue, "InstanceId"},
		{"DescribeInstances", "InstanceId.1=i-1&InstanceId.3=i-3", errs.InvalidParameterValue, "InstanceId"},
		{"DescribeInstances", "InstanceId.01=i-1", errs.InvalidParameterValue, "InstanceId"},
		{"DescribeInstances", "InstanceId.member.1=i-1", errs.InvalidParameterValue, "InstanceId"},
		{"DescribeInstances", "InstanceId.1.X=i-1", errs.InvalidParameterValue, "InstanceId.1"},
		{"DescribeInstances", "InstanceId.1=i-1&InstanceId.1=i-2", errs.InvalidParameterValue, "InstanceId.1"},
		{"DescribeInstances", "InstanceId.1=%ff", errs.InvalidParameterValue, "InstanceId.1"},
		{"DescribeInstances", ".=x", errs.UnknownParameter, "."},
		{"DescribeInstances", "=x", errs.UnknownParameter, ""},
		{"DescribeInstances", "Filter.=x", errs.UnknownParameter, "Filter."},
		{"DescribeInstances", strings.Repeat("a.", 50) + "b=x", errs.UnknownParameter, "a.a"},
		{"DescribeVpcs", "MaxResults=2", errs.InvalidParameterValue, "between 5 and 1000"},
		{"CreateTags", "ResourceId.1=i-1", errs.MissingParameter, "Tag"},
		{"ModifyInstanceAttribute", "InstanceId=i-1&UserData.Value=***", errs.InvalidParameterValue, "UserData.Value"},
	} {
		_, err := Actions[c.action].Serve(t.Context(), Unsupported{}, query(t, c.params), "r-1", nil)
		var e *errs.Error
		if !errors.As(err, &e) || e.Code != c.code || !strings.Contains(e.Message, c.names) {
			t.Errorf("%s %s: got %v, want %s naming %q", c.action, c.params, err, c.code, c.names)
		}
	}
}

func TestListBound(t *testing.T) {
	params := make(url.Values)
	for i := range 1001 {
		params.Set("InstanceId."+strconv.Itoa(i+1), "i-1")
	}
	_, err := Actions["DescribeInstances"].Serve(t.Context(), Unsupported{}, params, "r-1", nil)
	if e := new(errs.Error); !errors.As(err, &e) || e.Code != errs.InvalidParameterValue || !strings.Contains(e.Message, "1000") {
		t.Errorf("1001 ids: got %v, want InvalidParameterValue naming the bound", err)
	}
	params.Del("InstanceId.1001")
	if _, err := Actions["DescribeInstances"].Serve(t.Context(), &recorder{}, params, "r-1", nil); err != nil {
		t.Errorf("1000 ids: got %v, want none", err)
	}
}

// TestAnswerRoundTrip writes an answer and reads it back with encoding/xml, which shares no code with the encoder.
func TestAnswerRoundTrip(t *testing.T) {
	launch := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)
	out := &RunInstancesOutput{
		OwnerId: new("123456789012"), ReservationId: new("r-1"),
		Instances: []Instance{{
			InstanceId: new("i-1"), AmiLaunchIndex: new(int32(0)), LaunchTime: &launch, EbsOptimized: new(false),
			State:          &InstanceState{Code: new(int32(0)), Name: new(InstanceStateNamePending)},
			SecurityGroups: []GroupIdentifier{{GroupId: new("sg-1"), GroupName: new("a & b <c> \"d\" 'e'\r\n\tö ")}},
			Tags:           []Tag{{Key: new("k"), Value: new("")}, {Key: new("l"), Value: new("v")}},
		}},
	}
	text, err := Actions["RunInstances"].Serve(t.Context(), &recorder{out: out}, query(t, "MinCount=1&MaxCount=1"), "r-42", nil)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		XMLName   xml.Name
		RequestID string `xml:"requestId"`
		RunInstancesOutput
	}
	if err := xml.Unmarshal(text, &got); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	if got.XMLName.Local != "RunInstancesResponse" || got.XMLName.Space != "http://ec2.amazonaws.com/doc/2016-11-15/" || got.RequestID != "r-42" {
		t.Errorf("envelope is %+v with request id %q", got.XMLName, got.RequestID)
	}
	if !reflect.DeepEqual(&got.RunInstancesOutput, out) {
		t.Errorf("read back %+v, want %+v", got.RunInstancesOutput, out)
	}
	for _, part := range []string{"<launchTime>2026-01-02T03:04:05.678Z</launchTime>", "<productCodes/>", "<ebsOptimized>false</ebsOptimized>"} {
		if !bytes.Contains(text, []byte(part)) {
			t.Errorf("the answer lacks %s: %s", part, text)
		}
	}
}

func TestEmptyAnswers(t *testing.T) {
	text, err := Actions["ModifyInstanceAttribute"].Serve(t.Context(), &recorder{}, query(t, "InstanceId=i-1"), "r-1", nil)
	if err != nil || !bytes.Contains(text, []byte("<requestId>r-1</requestId><return>true</return></ModifyInstanceAttributeResponse>")) {
		t.Errorf("got %s, %v", text, err)
	}
	text, err = Actions["DescribeInstances"].Serve(t.Context(), &recorder{}, nil, "r-1", nil)
	if err != nil || !bytes.Contains(text, []byte("<reservationSet/>")) {
		t.Errorf("an empty set must be present: got %s, %v", text, err)
	}
}

func TestUnsupported(t *testing.T) {
	for name, action := range Actions {
		params := make(url.Values)
		for range 40 { // supply whatever is required until the decoder is content
			_, err := action.Serve(t.Context(), Unsupported{}, params, "r-1", nil)
			var e *errs.Error
			if !errors.As(err, &e) {
				t.Fatalf("%s: %v", name, err)
			}
			if e.Code == errs.UnsupportedOperation {
				break
			}
			missing, found := strings.CutPrefix(e.Message, "The request must contain the parameter ")
			if !found {
				t.Fatalf("%s: %v", name, err)
			}
			params.Set(example(action, missing))
		}
		if len(action.Parameters) == 0 || action.Name != name || !Known(name) {
			t.Errorf("%s: the table's row is incomplete: %+v", name, action)
		}
	}
}

// example returns a parameter that satisfies a required one.
func example(action Action, missing string) (string, string) {
	for _, p := range action.Parameters {
		p = strings.ReplaceAll(p, ".N", ".1")
		if p == missing || strings.HasPrefix(p, missing+".") {
			switch {
			case strings.HasSuffix(p, "Count"):
				return p, "1"
			case p == "Attribute" && strings.Contains(action.Name, "Vpc"):
				return p, "enableDnsSupport"
			case p == "Attribute" && strings.Contains(action.Name, "Image"):
				return p, "launchPermission"
			case p == "Attribute":
				return p, "userData"
			case p == "PublicKeyMaterial":
				return p, "YQ=="
			}
			return p, "true"
		}
	}
	return missing, "true"
}

func TestFlagsAndParameters(t *testing.T) {
	run, describe := Actions["RunInstances"], Actions["DescribeInstances"]
	if run.ReadOnly || !run.DryRun || !run.ClientToken || !run.Taggable || run.Paginated || run.Filtered {
		t.Errorf("RunInstances: %+v", run)
	}
	if !describe.ReadOnly || !describe.Paginated || !describe.Filtered || describe.ClientToken || describe.Taggable {
		t.Errorf("DescribeInstances: %+v", describe)
	}
	for _, p := range []string{"ImageId", "BlockDeviceMapping.N.Ebs.VolumeSize", "NetworkInterface.N.PrivateIpAddresses.N.Primary", "TagSpecification.N.Tag.N.Key", "UserData", "SecurityGroupId.N"} {
		if !slices.Contains(run.Parameters, p) {
			t.Errorf("RunInstances lacks parameter %s", p)
		}
	}
}

func TestKnown(t *testing.T) {
	if !Known("CreateTransitGateway") || Known("CreateTransitGate") || Known("") || len(Actions) != 48 {
		t.Errorf("Known or the table of %d actions is wrong", len(Actions))
	}
}

// FuzzDecode runs every decoder on arbitrary forms: none may panic, and every refusal is an error that a client can read.
func FuzzDecode(f *testing.F) {
	f.Add("RunInstances", "MinCount=1&MaxCount=1&TagSpecification.1.Tag.1.Key=a")
	f.Add("AuthorizeSecurityGroupIngress", "IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0/0&GroupId=sg-1")
	f.Add("DescribeInstances", "Filter.1.Name=tag:a&Filter.1.Value.1=b&InstanceId=")
	f.Add("DescribeInstances", "..=&a..b=1&Filter.1=x&Filter.1.Name=y")
	f.Fuzz(func(t *testing.T, name, form string) {
		action, ok := Actions[name]
		params, err := url.ParseQuery(form)
		if !ok || err != nil {
			return
		}
		_, err = action.Serve(context.Background(), Unsupported{}, params, "r-1", nil)
		var e *errs.Error
		if !errors.As(err, &e) || len(e.Message) > 2000 {
			t.Errorf("got %v, want a short *errs.Error", err)
		}
	})
}
